//! `[catalogue]`, and the same keys in `[predict]`: which objects, and which column is what.

use fisherflow_dataflow::CatalogueSource;
use fisherflow_spectra::{CatalogueColumns, FluxError, LabelErrors, Mask};
use fisherflow_store::OnBadObject;

use super::entry::Entry;
use super::error::RunFileError;
use super::table::Table;
use crate::foreign_files;

/// Keys that describe a catalogue.
pub const KEYS: &[&str] = &[
    "uri",
    "format",
    "id",
    "flux",
    "sigma",
    "ivar",
    "exact_inputs",
    "mask",
    "bad_bits",
    "labels",
    "label_errors",
    "holdout_group",
    "on_bad_object",
    "exclude",
];

/// Formats of the contract that a later version reads.
const LATER_FORMATS: &[&str] = &["fits-apstar", "fits-sdss", "fits-desi", "hdf5"];
/// Bits of a mask column.
const MASK_BITS: u8 = 64;

/// The keys that a table has; what is not there may be inherited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CatalogueKeys {
    /// As written: relative to the run file, or a URI, with `*` where it names many objects.
    pub uri: Option<String>,
    /// Column of identifiers.
    pub id: Option<String>,
    /// Column of flux lists.
    pub flux: Option<String>,
    /// `sigma`, `ivar` or `exact_inputs`.
    pub error: Option<FluxError>,
    /// Column of masks; `Some(None)` is `mask = false`, a catalogue without one.
    pub mask: Option<Option<String>>,
    /// The bits that make a pixel bad.
    pub bad_bits: Option<Vec<u8>>,
    /// Columns of labels, in the network's order.
    pub labels: Option<Vec<String>>,
    /// What is known of their errors.
    pub label_errors: Option<LabelErrors>,
    /// Column whose equal values stay on one side of the holdout.
    pub holdout_group: Option<String>,
    /// Whether a bad object ends the run.
    pub on_bad_object: Option<OnBadObject>,
    /// Tables of identifiers to leave out, as written.
    pub exclude: Option<Vec<String>>,
}

impl CatalogueKeys {
    /// Reads the keys that are there.
    ///
    /// # Errors
    /// Wrong values.
    pub fn read(table: &Table<'_>) -> Result<Self, RunFileError> {
        let string = |key| table.get(key).map(|e: Entry<'_>| e.string()).transpose();
        table.get("format").map(|e| format(&e)).transpose()?;
        let labels = table.get("labels").map(|e| e.distinct_strings()).transpose()?;
        Ok(Self {
            uri: table.get("uri").map(|e| parquet(&e)).transpose()?,
            id: string("id")?,
            flux: string("flux")?,
            error: flux_error(table)?,
            mask: table.get("mask").map(|e| mask(&e)).transpose()?,
            bad_bits: table.get("bad_bits").map(|e| bad_bits(&e)).transpose()?,
            label_errors: table
                .get("label_errors")
                .map(|e| label_errors(&e, labels.as_deref()))
                .transpose()?,
            labels,
            holdout_group: string("holdout_group")?,
            on_bad_object: table
                .get("on_bad_object")
                .map(|e| e.choice(&[("fail", OnBadObject::Fail), ("skip", OnBadObject::Skip)], &[]))
                .transpose()?,
            exclude: table.get("exclude").map(|e| exclude(&e)).transpose()?,
        })
    }

    /// These keys, and where one is not there that of `other`.
    ///
    /// `labels`, `label_errors` and `holdout_group` are the truth that the fit compares with, not part of a spectrum: they are not
    /// inherited, so that stars without known labels can be predicted.
    pub fn or_columns_of(self, other: &Self) -> Self {
        let other = other.clone();
        Self {
            uri: self.uri.or(other.uri),
            id: self.id.or(other.id),
            flux: self.flux.or(other.flux),
            error: self.error.or(other.error),
            mask: self.mask.or(other.mask),
            bad_bits: self.bad_bits.or(other.bad_bits),
            labels: self.labels,
            label_errors: self.label_errors,
            holdout_group: self.holdout_group,
            on_bad_object: self.on_bad_object.or(other.on_bad_object),
            exclude: self.exclude.or(other.exclude),
        }
    }

    /// Every key said or defaulted, URIs as written: `on_bad_object` is `"fail"`, and without `bad_bits` every bit of a mask is bad.
    ///
    /// # Errors
    /// `uri`, `id`, `flux` or the flux errors are missing, or `bad_bits` has no mask.
    pub fn complete(self, table: &Table<'_>, keep: Vec<String>) -> Result<CatalogueSource, RunFileError> {
        let need = |value: Option<String>, key: &str, remedy: &str| value.ok_or_else(|| table.missing(key, remedy));
        let mask = match (self.mask.flatten(), self.bad_bits) {
            (Some(column), bits) => Some(Mask {
                column,
                bad_bits: bits.unwrap_or_default(),
            }),
            (None, _) => {
                if let Some(bits) = table.get("bad_bits") {
                    return Err(bits.invalid("has no mask: add mask = \"<column>\""));
                }
                None
            }
        };
        let remedy = "write sigma = \"<column>\" or ivar = \"<column>\", or exact_inputs = true where the flux has no errors at all";
        Ok(CatalogueSource {
            uri: need(self.uri, "uri", "write uri = \"catalogue/*.parquet\"")?,
            columns: CatalogueColumns {
                id: need(self.id, "id", "name the column of identifiers")?,
                flux: need(self.flux, "flux", "name the column of flux lists")?,
                error: self.error.ok_or_else(|| table.missing("sigma", remedy))?,
                mask,
                labels: self.labels.unwrap_or_default(),
                label_errors: self.label_errors.unwrap_or(LabelErrors::None),
                holdout_group: self.holdout_group,
                keep,
            },
            on_bad_object: self.on_bad_object.unwrap_or(OnBadObject::Fail),
            exclude: self.exclude.unwrap_or_default(),
        })
    }
}

/// Refuses a column that two keys name. One of them stands in `table`: no two that `[predict]` takes over name the same.
///
/// # Errors
/// [`RunFileError::Invalid`] at the second of these keys that stands there.
pub fn refuse_named_twice(columns: &CatalogueColumns, table: &Table<'_>) -> Result<(), RunFileError> {
    let Some((column, first, second)) = columns.named_twice() else {
        return Ok(());
    };
    let taken_over = |key: &str| format!("catalogue.{key}");
    let (entry, other) = match (table.get(first), table.get(second)) {
        (Some(other), Some(entry)) => (entry, other.key),
        (None, Some(entry)) => (entry, taken_over(first)),
        (Some(entry), None) => (entry, taken_over(second)),
        (None, None) => return Ok(()),
    };
    Err(entry.invalid(format!(
        "names the column \"{column}\", and so does `{other}`: it can be but one of them"
    )))
}

/// Parquet, and nothing else yet.
fn format(entry: &Entry<'_>) -> Result<(), RunFileError> {
    let said = entry.string()?;
    if said.to_lowercase().starts_with("fits") {
        let remedy = format!("use \"parquet\": {}", foreign_files::FROM_FITS);
        return Err(entry.unsupported(format!("\"{said}\""), remedy));
    }
    entry.choice(&[("parquet", ())], LATER_FORMATS)
}

/// The URI of Parquet objects.
fn parquet(entry: &Entry<'_>) -> Result<String, RunFileError> {
    let uri = entry.string()?;
    match foreign_files::catalogue(&uri) {
        Some(foreign) => Err(entry.unsupported(foreign.what, foreign.remedy)),
        None => Ok(uri),
    }
}

/// At most one of `sigma`, `ivar` and `exact_inputs = true`.
fn flux_error(table: &Table<'_>) -> Result<Option<FluxError>, RunFileError> {
    let exact = match table.get("exact_inputs") {
        Some(e) if e.boolean()? => Some(e),
        _ => None,
    };
    match (table.get("sigma"), table.get("ivar"), exact) {
        (Some(s), None, None) => Ok(Some(FluxError::Sigma(s.string()?))),
        (None, Some(i), None) => Ok(Some(FluxError::Ivar(i.string()?))),
        (None, None, Some(_)) => Ok(Some(FluxError::Exact)),
        (None, None, None) => Ok(None),
        (_, Some(second), None) | (_, _, Some(second)) => {
            Err(second.invalid("is one too many: give exactly one of sigma, ivar and exact_inputs = true"))
        }
    }
}

/// A column, or `false`.
fn mask(entry: &Entry<'_>) -> Result<Option<String>, RunFileError> {
    if !entry.is_boolean() {
        return entry.string().map(Some);
    }
    if entry.boolean()? {
        return Err(entry.invalid("is true, expected a column, or false for none"));
    }
    Ok(None)
}

/// One table of identifiers, or several; `[]` is none.
fn exclude(entry: &Entry<'_>) -> Result<Vec<String>, RunFileError> {
    if entry.is_array() {
        entry.distinct_strings()
    } else if entry.is_string() {
        Ok(vec![entry.string()?])
    } else {
        Err(entry.wrong_type("the URI of a Parquet table of identifiers, or an array of such URIs"))
    }
}

/// Numbers of bits.
fn bad_bits(entry: &Entry<'_>) -> Result<Vec<u8>, RunFileError> {
    let mut bits = Vec::new();
    for element in entry.array("an array of bit numbers")? {
        let n = element.integer(0)?;
        match u8::try_from(n) {
            Ok(bit) if bit < MASK_BITS => bits.push(bit),
            _ => return Err(element.invalid(format!("is {n}, expected a bit from 0 to 63"))),
        }
    }
    if bits.is_empty() {
        return Err(entry.invalid("is empty: leave it out for every bit, or leave out the mask"));
    }
    bits.sort_unstable();
    bits.dedup();
    Ok(bits)
}

/// Columns of standard deviations, one a label, or one column of K*K covariances.
fn label_errors(entry: &Entry<'_>, labels: Option<&[String]>) -> Result<LabelErrors, RunFileError> {
    let Some(labels) = labels else {
        return Err(entry.invalid("has no labels: add labels = [...] to the same table"));
    };
    if entry.is_string() {
        return Ok(LabelErrors::Covariance(entry.string()?));
    }
    if !entry.is_array() {
        return Err(entry.wrong_type("an array of columns of standard deviations, or one column of covariances"));
    }
    let columns = entry.distinct_strings()?;
    if columns.len() != labels.len() {
        return Err(entry.invalid(format!(
            "names {} columns, `labels` has {}: one a label, in the same order",
            columns.len(),
            labels.len()
        )));
    }
    if let Some(order) = order_said(&columns, labels)
        && order != labels
    {
        return Err(entry.invalid(format!(
            "names errors of the labels in the order {order:?}, and `labels` has the order {labels:?}: name them in the same order"
        )));
    }
    Ok(LabelErrors::Sigma(columns))
}

/// The labels in the order that columns of their errors say by their names: each that of a label with the same before and behind it, as
/// `e_teff` and `e_logg`. `None` where the names say no order.
fn order_said<'l>(columns: &[String], labels: &'l [String]) -> Option<Vec<&'l str>> {
    let first = columns.first()?;
    labels.iter().find_map(|label| {
        first.match_indices(label.as_str()).find_map(|(at, _)| {
            let (before, behind) = (&first[..at], &first[at + label.len()..]);
            let of = |column: &String| {
                let named = column.strip_prefix(before)?.strip_suffix(behind)?;
                labels.iter().map(String::as_str).find(|label| *label == named)
            };
            columns.iter().map(of).collect()
        })
    })
}
