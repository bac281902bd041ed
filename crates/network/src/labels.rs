//! What the network's outputs are: names, units, and the scale from outputs to labels.

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// The labels a network predicts: `label = output * scale + mean`, label by label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Labels {
    /// Names, in the order of the outputs.
    pub names: Vec<String>,
    /// Units, empty where a label has none.
    pub units: Vec<String>,
    /// Mean of each label, in its unit.
    pub mean: Vec<f64>,
    /// Scale of each label, in its unit; positive.
    pub scale: Vec<f64>,
}

impl Labels {
    /// Labels of mean 0 and scale 1.
    #[must_use]
    pub fn unscaled(names: Vec<String>, units: Vec<String>) -> Self {
        let n = names.len();
        Self {
            names,
            units,
            mean: vec![0.0; n],
            scale: vec![1.0; n],
        }
    }

    /// Number of labels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Checks that there is one of everything for each of `outputs` outputs.
    ///
    /// # Errors
    /// Names the part whose count differs, a name used twice, or the mean or scale that makes no sense.
    pub fn check(&self, outputs: usize) -> Result<(), NetworkError> {
        for (what, count) in [
            ("names", self.names.len()),
            ("units", self.units.len()),
            ("means", self.mean.len()),
            ("scales", self.scale.len()),
        ] {
            if count != outputs {
                return Err(NetworkError::LabelCount { what, count, outputs });
            }
        }
        for (i, name) in self.names.iter().enumerate() {
            if self.names[..i].contains(name) {
                return Err(NetworkError::LabelTwice { name: name.clone() });
            }
        }
        check_finite("label mean", &self.mean)?;
        check_positive("label scale", &self.scale)
    }

    /// Outputs `[batch * K]`, normalised, to labels in their units.
    #[must_use]
    pub fn from_outputs(&self, outputs: &[f64]) -> Vec<f64> {
        let mean_scale = self.mean.iter().zip(&self.scale).cycle();
        outputs
            .iter()
            .zip(mean_scale)
            .map(|(f, (mean, scale))| f * scale + mean)
            .collect()
    }

    /// Labels `[batch * K]` in their units to normalised outputs.
    #[must_use]
    pub fn to_outputs(&self, labels: &[f64]) -> Vec<f64> {
        let mean_scale = self.mean.iter().zip(&self.scale).cycle();
        labels
            .iter()
            .zip(mean_scale)
            .map(|(y, (mean, scale))| (y - mean) / scale)
            .collect()
    }
}

/// Refuses values that are not finite.
pub(crate) fn check_finite(what: &'static str, values: &[f64]) -> Result<(), NetworkError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(NetworkError::NormalisationValue {
            what,
            index,
            value: values[index],
            remedy: "it must be a finite number",
        }),
    }
}

/// Refuses values that are not finite and positive.
pub(crate) fn check_positive(what: &'static str, values: &[f64]) -> Result<(), NetworkError> {
    match values.iter().position(|v| !(v.is_finite() && *v > 0.0)) {
        None => Ok(()),
        Some(index) => Err(NetworkError::NormalisationValue {
            what,
            index,
            value: values[index],
            remedy: "it must be a finite number above 0",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        Labels {
            names: vec!["teff".into(), "logg".into()],
            units: vec!["K".into(), "dex".into()],
            mean: vec![4700.0, 2.0],
            scale: vec![500.0, 0.5],
        }
    }

    #[test]
    fn outputs_and_labels_go_both_ways() {
        let labels = labels();
        assert_eq!(labels.from_outputs(&[1.0, 2.0, -1.0, 0.0]), [5200.0, 3.0, 4200.0, 2.0]);
        assert_eq!(labels.to_outputs(&[5200.0, 3.0, 4200.0, 2.0]), [1.0, 2.0, -1.0, 0.0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(labels().check(2).is_ok());
        let said = labels().check(3).unwrap_err().to_string();
        assert_eq!(said, "2 label names given, the network has 3 outputs");
        let mut twice = labels();
        twice.names[1] = "teff".into();
        assert!(matches!(twice.check(2), Err(NetworkError::LabelTwice { .. })));
        let mut flat = labels();
        flat.scale[1] = 0.0;
        let said = flat.check(2).unwrap_err().to_string();
        assert_eq!(said, "label scale[1] is 0; it must be a finite number above 0");
    }
}
