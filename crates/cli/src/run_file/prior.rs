//! `[prior]`: the precision of the weights before any spectrum is seen.

use fisherflow_dataflow::Prior;

use super::error::RunFileError;
use super::table::Table;

/// Keys of `[prior]`.
pub const KEYS: &[&str] = &["precision"];

/// `[prior]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PriorTable {
    /// `delta`, at least 0, in normalised label units, on the scale of the SUM over spectra; or `"evidence"`.
    pub precision: Prior,
}

impl PriorTable {
    /// Reads the table. `precision` has no default: neither a number nor the evidence is right for every network.
    ///
    /// # Errors
    /// Missing or wrong values.
    pub fn read(table: &Table<'_>) -> Result<Self, RunFileError> {
        let entry = table
            .get("precision")
            .ok_or_else(|| table.missing("precision", REMEDY))?;
        if entry.is_string() {
            let precision =
                entry
                    .choice(&[("evidence", Prior::Evidence)], &["holdout"])
                    .map_err(|error| match error {
                        RunFileError::Unsupported { at, key, said, .. } => RunFileError::Unsupported {
                            at,
                            key,
                            said,
                            supported: REMEDY.to_owned(),
                        },
                        _ => entry.wrong_type("a number of at least 0, or \"evidence\""),
                    })?;
            return Ok(Self { precision });
        }
        let precision = entry.number()?;
        if precision < 0.0 {
            return Err(entry.invalid(format!("is {precision}, expected a number of at least 0")));
        }
        Ok(Self {
            precision: Prior::Fixed(precision),
        })
    }
}

/// What to write instead.
pub const REMEDY: &str = "write a number: the precision of each weight, in normalised units, beside the SUM over spectra; 1.0 is a start, and a weight decay w of a mean loss over N spectra is about N * w; or \"evidence\", which finds one";
