//! Which column of a catalogue is what.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::SpectraError;

/// The columns of a catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueColumns {
    /// The identifier of a spectrum: string or integer.
    pub id: String,
    /// The flux: a list of `n_pixels` numbers.
    pub flux: String,
    /// The noise of the flux.
    pub error: FluxError,
    /// The bad pixels, where the catalogue marks them.
    pub mask: Option<Mask>,
    /// The labels, scalars, in the network's order; empty where they are not known.
    pub labels: Vec<String>,
    /// The errors of the labels.
    pub label_errors: LabelErrors,
    /// Rows with one value of this column are held out together (repeat observations of one source); `None`: each id by itself.
    pub holdout_group: Option<String>,
    /// Columns that are passed through to the predictions.
    pub keep: Vec<String>,
}

/// Where the noise of the flux comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FluxError {
    /// A list of standard deviations, flux units; zero, negative or not finite: the pixel is masked.
    Sigma(String),
    /// A list of inverse variances, 1/flux^2; zero, negative or not finite: the pixel is masked.
    Ivar(String),
    /// The flux has no error: variance 0 in every good pixel.
    Exact,
}

/// Which pixels are bad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    /// A list of `n_pixels` integers (bit fields) or booleans (true = bad).
    pub column: String,
    /// The bits, each in `0..64`, that make a pixel bad; empty: any bit does.
    pub bad_bits: Vec<u8>,
}

/// The errors of the labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabelErrors {
    /// The labels have none.
    None,
    /// A column of standard deviations a label, in label units.
    Sigma(Vec<String>),
    /// One column of lists: the `K * K` covariance, row-major, in label units.
    Covariance(String),
}

impl Mask {
    /// The bits that make a pixel bad, as one number.
    #[must_use]
    pub fn bad(&self) -> u64 {
        if self.bad_bits.is_empty() {
            return u64::MAX;
        }
        self.bad_bits
            .iter()
            .filter(|&&bit| bit < 64)
            .fold(0, |bits, &bit| bits | (1 << bit))
    }
}

impl CatalogueColumns {
    /// Identifiers and fluxes without errors, and nothing beside.
    #[must_use]
    pub fn new(id: impl Into<String>, flux: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            flux: flux.into(),
            error: FluxError::Exact,
            mask: None,
            labels: Vec::new(),
            label_errors: LabelErrors::None,
            holdout_group: None,
            keep: Vec::new(),
        }
    }

    /// Checks that the columns do not contradict one another.
    ///
    /// # Errors
    /// Label errors without labels or not one a label, a label named twice, a column of two parts, a mask bit above 63, an empty column name.
    pub fn validate(&self) -> Result<(), SpectraError> {
        let refuse = |reason: String| Err(SpectraError::Columns { reason });
        if self.names().iter().any(|name| name.is_empty()) {
            return refuse("a column name is empty".to_owned());
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.labels.iter().find(|label| !seen.insert(*label)) {
            return refuse(format!("label \"{twice}\" is named twice"));
        }
        match &self.label_errors {
            LabelErrors::Sigma(sigmas) if sigmas.len() != self.labels.len() => {
                return refuse(format!(
                    "{} label error columns for {} labels: name one a label, in the same order",
                    sigmas.len(),
                    self.labels.len()
                ));
            }
            LabelErrors::Covariance(column) if self.labels.is_empty() => {
                return refuse(format!("label covariance \"{column}\" without label columns"));
            }
            _ => {}
        }
        if let Some((column, other, key)) = self.named_twice() {
            return refuse(format!(
                "column \"{column}\" is named in {other} and in {key}, and can be but one of them"
            ));
        }
        if let Some(mask) = &self.mask
            && let Some(bit) = mask.bad_bits.iter().find(|&&bit| bit > 63)
        {
            return refuse(format!("bad_bits holds {bit}: bits are 0 to 63"));
        }
        Ok(())
    }

    /// A column that is named by two keys of the run file, and can be but one of them, with the first and the second of these.
    #[must_use]
    pub fn named_twice(&self) -> Option<(&str, &'static str, &'static str)> {
        let mut keys = BTreeMap::new();
        self.parts().into_iter().find_map(|(key, column)| {
            let other = keys.insert(column, key).filter(|other| *other != key)?;
            Some((column, other, key))
        })
    }

    /// Every column that is read, each once, in a fixed order.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names = vec![self.id.as_str()];
        names.extend(self.parts().into_iter().map(|(_, column)| column));
        names.extend(self.holdout_group.as_deref());
        names.extend(self.keep.iter().map(String::as_str));
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(*name));
        names
    }

    /// The key of the run file that names a column, `keep_columns` apart.
    #[must_use]
    pub fn key_of(&self, column: &str) -> Option<&'static str> {
        let mut keys = self.parts();
        keys.push(("id", self.id.as_str()));
        keys.extend(
            self.holdout_group
                .iter()
                .map(|column| ("holdout_group", column.as_str())),
        );
        keys.into_iter().find(|(_, of)| *of == column).map(|(key, _)| key)
    }

    /// The columns that a spectrum and its labels are made of, each with the key of the run file that names it.
    fn parts(&self) -> Vec<(&'static str, &str)> {
        let mut parts = vec![("flux", self.flux.as_str())];
        match &self.error {
            FluxError::Sigma(column) => parts.push(("sigma", column.as_str())),
            FluxError::Ivar(column) => parts.push(("ivar", column.as_str())),
            FluxError::Exact => {}
        }
        parts.extend(self.mask.iter().map(|mask| ("mask", mask.column.as_str())));
        parts.extend(self.labels.iter().map(|label| ("labels", label.as_str())));
        match &self.label_errors {
            LabelErrors::None => {}
            LabelErrors::Sigma(columns) => parts.extend(columns.iter().map(|column| ("label_errors", column.as_str()))),
            LabelErrors::Covariance(column) => parts.push(("label_errors", column.as_str())),
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> CatalogueColumns {
        CatalogueColumns {
            id: "id".into(),
            flux: "flux".into(),
            error: FluxError::Ivar("ivar".into()),
            mask: Some(Mask {
                column: "mask".into(),
                bad_bits: vec![0, 3],
            }),
            labels: vec!["teff".into(), "logg".into()],
            label_errors: LabelErrors::Sigma(vec!["e_teff".into(), "e_logg".into()]),
            holdout_group: Some("source".into()),
            keep: vec!["snr".into(), "id".into()],
        }
    }

    #[test]
    fn names_are_listed_once() {
        assert_eq!(
            columns().names(),
            [
                "id", "flux", "ivar", "mask", "teff", "logg", "e_teff", "e_logg", "source", "snr"
            ]
        );
    }

    #[test]
    fn a_column_is_known_by_its_key() {
        let c = columns();
        let keys = ["id", "ivar", "mask", "logg", "e_teff", "source", "snr"].map(|column| c.key_of(column));
        let named = ["id", "ivar", "mask", "labels", "label_errors", "holdout_group"].map(Some);
        assert_eq!((&keys[..6], keys[6]), (&named[..], None));
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(columns().validate().is_ok());
        let mut c = columns();
        c.label_errors = LabelErrors::Sigma(vec!["e_teff".into()]);
        assert!(
            c.validate()
                .unwrap_err()
                .to_string()
                .contains("1 label error columns for 2 labels")
        );
        let mut c = columns();
        c.labels[1] = "teff".into();
        assert!(
            c.validate()
                .unwrap_err()
                .to_string()
                .contains("\"teff\" is named twice")
        );
        let mut c = columns();
        c.mask = Some(Mask {
            column: "m".into(),
            bad_bits: vec![64],
        });
        assert!(c.validate().is_err());
    }

    #[test]
    fn a_column_plays_one_part() {
        let said = |columns: CatalogueColumns| match columns.validate() {
            Err(SpectraError::Columns { reason }) => reason,
            other => panic!("{other:?}"),
        };
        let mut c = columns();
        c.error = FluxError::Sigma("flux".into());
        assert!(said(c).starts_with("column \"flux\" is named in flux and in sigma"));
        let mut c = columns();
        c.label_errors = LabelErrors::Sigma(c.labels.clone());
        assert!(said(c).starts_with("column \"teff\" is named in labels and in label_errors"));
        // Spectra may be known by, or held out by, what they are made of, and any column may be kept.
        let mut c = columns();
        (c.id, c.holdout_group, c.keep) = ("mask".into(), Some("teff".into()), c.labels.clone());
        c.validate().unwrap();
    }

    #[test]
    fn mask_bits_combine() {
        assert_eq!(columns().mask.unwrap().bad(), 0b1001);
        let any = Mask {
            column: "m".into(),
            bad_bits: vec![],
        };
        assert_eq!(any.bad(), u64::MAX);
    }
}
