//! `[prior]`: the precision of the weights before any spectrum is seen.

use std::collections::BTreeMap;

use fisherflow_dataflow::Prior;

use super::entry::Entry;
use super::error::RunFileError;
use super::table::Table;

/// Keys of `[prior]`.
pub const KEYS: &[&str] = &["precision", "layers", "per_layer", "label_scale"];

/// `[prior]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PriorTable {
    /// `delta`, at least 0, in normalised label units, on the scale of the SUM over spectra; or what finds it.
    pub precision: Prior,
    /// By layer name, over `precision`.
    pub layers: BTreeMap<String, f64>,
    /// Whether the weights' part is given a factor a label, from held-out spectra.
    pub label_scale: bool,
}

impl PriorTable {
    /// Reads the table. `precision` has no default: neither a number nor what finds one is right for every network.
    ///
    /// # Errors
    /// Missing or wrong values.
    pub fn read(table: &Table<'_>) -> Result<Self, RunFileError> {
        let entry = table
            .get("precision")
            .ok_or_else(|| table.missing("precision", REMEDY))?;
        let mut layers = BTreeMap::new();
        if let Some(by_layer) = table.table("layers")? {
            for (name, entry) in by_layer.entries() {
                super::curvature::by_name(&entry)?;
                layers.insert(name, at_least_zero(&entry)?);
            }
        }
        let flag = |key: &str| table.get(key).map_or(Ok(false), |entry| entry.boolean());
        let mut precision = precision(&entry)?;
        if flag("per_layer")? {
            if precision != Prior::Evidence {
                let per_layer = table.get("per_layer").unwrap_or(entry);
                return Err(per_layer.invalid(
                    "goes with precision = \"evidence\": give layers their own numbers in [prior.layers], or leave it out",
                ));
            }
            precision = Prior::EvidencePerBlock;
        }
        Ok(Self {
            precision,
            layers,
            label_scale: flag("label_scale")?,
        })
    }

    /// The key of the table that needs held-out spectra with labels, where one does.
    pub fn needs_holdout(&self) -> Option<&'static str> {
        if self.precision == Prior::Holdout {
            Some("precision")
        } else {
            self.label_scale.then_some("label_scale")
        }
    }
}

/// A number, or what finds one.
fn precision(entry: &Entry<'_>) -> Result<Prior, RunFileError> {
    if !entry.is_string() {
        return Ok(Prior::Fixed(at_least_zero(entry)?));
    }
    let found = [("evidence", Prior::Evidence), ("holdout", Prior::Holdout)];
    entry
        .choice(&found, &[])
        .map_err(|_| entry.wrong_type("a number of at least 0, \"evidence\" or \"holdout\""))
}

fn at_least_zero(entry: &Entry<'_>) -> Result<f64, RunFileError> {
    let precision = entry.number()?;
    if precision < 0.0 {
        return Err(entry.invalid(format!("is {precision}, expected a number of at least 0")));
    }
    Ok(precision)
}

/// What to write instead.
pub const REMEDY: &str = "write a number: the precision of each weight, in normalised units, beside the SUM over spectra; 1.0 is a start, and a penalty w |theta|^2 beside a mean over N spectra and K labels of r^2 (l2(w) and mse of Keras) is N K w / sigma^2, sigma^2 the variance of held-out residuals in normalised label units (torch's weight_decay w of SGD and Adam: half of that; AdamW's is no such penalty); or \"evidence\" or \"holdout\", which find one";
