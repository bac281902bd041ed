//! What the manifest's settings say: the parts that have a place of their own on page and screen, and all others by name.

use fisherflow_store::{Manifest, Output};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::ReportError;

/// The parts that page and screen know by name.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    /// The network.
    pub network: NetworkSettings,
    /// Of each label; none where fewer than two unseen spectra have labels, and errors that these can be compared with.
    pub pulls: Option<Vec<Pulls>>,
    /// Which spectra those are over: `held_out` or `predicted`.
    pub pulls_over: Option<String>,
    /// How many of their stars the fit has too; none where they are of its own catalogue.
    pub pulls_in_fit: Option<InFit>,
    /// Over the held-out spectra that the error bars were fitted to.
    pub held_out_pulls: Option<Vec<Pulls>>,
    /// C_intrinsic by cell of label space; empty where one serves all.
    #[serde(default)]
    pub intrinsic_cells: Vec<LabelCell>,
    /// How the labels' noise R came about; none where the run file gives it.
    pub noise_estimate: Option<Noise>,
    /// Whether the Hessian weighs each spectrum by its photon noise too.
    #[serde(default)]
    pub errors_in_variables: bool,
    /// How far the error bars may be trusted; none where nothing was checked.
    pub certificate: Option<Certificate>,
    /// How C_intrinsic came about; none without labels.
    pub intrinsic_estimate: Option<Budget>,
    /// How many weights are, and can be, determined; none before the blocks are inverted.
    pub effective_parameters: Option<Effective>,
    /// The blocks of the weights' posterior; empty before they are inverted.
    #[serde(default)]
    pub blocks: Vec<Block>,
}

/// The network as the manifest describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct NetworkSettings {
    /// Names of the labels.
    pub labels: Vec<String>,
    /// Their units.
    #[serde(default)]
    pub units: Vec<String>,
    /// Number of weights.
    pub weights: u64,
}

/// How many weights are determined, and how many can be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Effective {
    /// Of all blocks; what is not finite is null in JSON.
    pub all: Option<f64>,
    /// At most so many,
    pub limit: u64,
    /// for there are as many of these.
    pub of: String,
}

/// The pulls of one label: `(label - prediction) / error`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Pulls {
    /// Number of spectra.
    pub n_spectra: u64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation about the mean.
    pub standard_deviation: f64,
    /// Share between -1 and 1.
    pub within_one_sigma: f64,
}

/// Labelled stars to predict.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct InFit {
    /// That were looked up in the fit's catalogue; 0 where that could not be read.
    pub looked_up: u64,
    /// Whether pulls over their spectra test the error bars.
    pub is_test: bool,
}

/// Pulls of each label by the spectra that they are over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shown<'s> {
    /// There are none.
    Nothing,
    /// Spectra of the fit's catalogue, held out from its sums, as they are where the error bars are fitted to them.
    Fitted {
        /// Of each label.
        pulls: &'s [Pulls],
        /// Whether that catalogue is the one to predict; else too few of those to predict have pulls.
        are_predicted: bool,
    },
    /// Spectra of a catalogue of their own.
    Predicted {
        /// Of each label.
        pulls: &'s [Pulls],
        /// Whether they test the error bars, as far as the fit's stars go; `None` where that is unknown.
        is_test: Option<bool>,
        /// Those over held-out spectra of the fit, which the error bars are fitted to.
        held_out: Option<&'s [Pulls]>,
    },
}

/// C_intrinsic of a cell of label space.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LabelCell {
    /// The cell.
    pub intervals: Vec<Interval>,
    /// Number of held-out spectra.
    pub n_spectra: u64,
    /// Its own; none where there are too few.
    pub own: Option<Scatter>,
}

/// A C_intrinsic.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Scatter {
    /// `[K, K]`, label units squared.
    pub covariance: Vec<f64>,
    /// Directions in which nothing is left for it.
    #[serde(default)]
    pub vanishing: usize,
}

/// One label's interval; open where there is no edge.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Interval {
    /// Position of the label.
    pub label: usize,
    /// Lower edge.
    pub low: Option<f64>,
    /// Upper edge.
    pub high: Option<f64>,
}

/// R, from held-out spectra.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Noise {
    /// `[K, K]`, label units squared.
    pub covariance: Vec<f64>,
    /// Number of spectra.
    pub n_spectra: u64,
}

/// How far the error bars may be trusted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Certificate {
    /// Against the exact posterior.
    pub comparison: Option<Comparison>,
    /// One a block, in their order.
    pub blocks: Vec<BlockCertificate>,
    /// What follows, in words.
    pub verdict: Vec<String>,
}

/// How far a block may be trusted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BlockCertificate {
    /// Its standard deviations over exact ones.
    pub sigma_ratio: Option<SigmaRatio>,
    /// What arithmetic has left.
    pub answer_error: Option<f64>,
    /// How far the minimum of the loss is; none without labels.
    pub newton: Option<Newton>,
    /// What follows, in words.
    pub verdict: Vec<String>,
}

/// How far the minimum of the loss is.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Newton {
    /// Norm of the gradient of the loss with the prior, normalised label units.
    pub gradient_norm: Option<f64>,
    /// In posterior standard deviations.
    pub decrement: Option<f64>,
}

/// Structures against the exact posterior of some training spectra.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Comparison {
    /// Training spectra.
    pub n_spectra: u64,
    /// Stars.
    pub n_stars: u64,
    /// Of the exact posterior.
    pub effective_parameters: f64,
    /// What effective parameters cannot exceed.
    pub effective_limit: f64,
    /// The run's own first.
    pub structures: Vec<ComparedStructure>,
}

/// A structure against the exact posterior.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ComparedStructure {
    /// `run`, or a name.
    pub structure: String,
    /// Of standard deviations.
    pub ratio: Option<SigmaRatio>,
    /// `gamma`.
    pub effective_parameters: f64,
}

/// Quantiles over stars and labels; what is not finite is null in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct SigmaRatio {
    /// The middle.
    #[serde(deserialize_with = "or_nan")]
    pub median: f64,
    /// 5 % are smaller.
    #[serde(deserialize_with = "or_nan")]
    pub p05: f64,
    /// 5 % are larger.
    #[serde(deserialize_with = "or_nan")]
    pub p95: f64,
    /// Rank correlation.
    pub spearman: Option<f64>,
}

/// Means over held-out spectra, `[K, K]` each, label units squared.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Budget {
    /// C_intrinsic.
    #[serde(flatten)]
    pub intrinsic: Scatter,
    /// Number of spectra.
    pub n_spectra: u64,
    /// `[K]`, label units: label minus prediction.
    pub mean_residual: Vec<f64>,
    /// Of residual times residual.
    pub residual_second_moment: Vec<f64>,
    /// Of C_flux.
    pub mean_flux: Vec<f64>,
    /// Of C_weights.
    pub mean_weights: Vec<f64>,
    /// Of the labels' own errors.
    pub mean_label_covariance: Vec<f64>,
}

/// A block of the weights' posterior; numbers that are not finite are null in JSON.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Block {
    /// Its layers.
    pub layers: Vec<String>,
    /// How it is held.
    pub structure: String,
    /// Number of weights, biases included.
    pub n_weights: u64,
    /// Spectra summed over.
    pub n_spectra: u64,
    /// `delta`.
    pub prior_precision: Option<f64>,
    /// `gamma`.
    pub effective_parameters: Option<f64>,
    /// `ln det P`.
    pub log_det: Option<f64>,
    /// Largest over smallest eigenvalue of `P`.
    pub condition: Option<f64>,
    /// Eigenvalues below zero that were set to zero.
    pub clipped_eigenvalues: u64,
    /// What was added to the diagonal to make it factorise.
    pub jitter: Option<f64>,
}

impl<'s> Shown<'s> {
    /// Of each label; empty where there are none.
    #[must_use]
    pub fn pulls(self) -> &'s [Pulls] {
        match self {
            Self::Nothing => &[],
            Self::Fitted { pulls, .. } | Self::Predicted { pulls, .. } => pulls,
        }
    }
}

impl Scatter {
    /// The standard deviation of a label. 0 where nothing is left in any direction: what then stands in the covariance says where the climb to its
    /// likelihood's maximum was cut off, and nothing of the spectra.
    #[must_use]
    pub fn standard_deviation(&self, label: usize) -> Option<f64> {
        let k = self.covariance.len().isqrt();
        let variance = self.covariance.get(label * (k + 1)).filter(|_| label < k)?;
        Some(if self.vanishing < k {
            variance.max(0.0).sqrt()
        } else {
            0.0
        })
    }
}

/// Settings that have sections of their own.
const ELSEWHERE: [&str; 9] = [
    "blocks",
    "certificate",
    "effective_parameters",
    "held_out_pulls",
    "intrinsic_cells",
    "intrinsic_estimate",
    "noise_estimate",
    "pulls",
    "pulls_in_fit",
];

impl Settings {
    /// The settings of a manifest.
    pub(crate) fn of(output: &Output, manifest: &Manifest) -> Result<Self, ReportError> {
        Self::deserialize(&manifest.settings).map_err(|source| ReportError::Settings {
            output: output.uri().to_owned(),
            source,
        })
    }

    /// The pulls that page and screen show.
    #[must_use]
    pub fn shown(&self) -> Shown<'_> {
        let predicted = self.pulls.as_deref().filter(|pulls| !pulls.is_empty());
        let held_out = self.held_out_pulls.as_deref().filter(|pulls| !pulls.is_empty());
        match (predicted, held_out) {
            (Some(pulls), _) if self.pulls_over.as_deref() == Some("held_out") => Shown::Fitted {
                pulls,
                are_predicted: true,
            },
            (Some(pulls), held_out) => Shown::Predicted {
                pulls,
                is_test: match self.pulls_in_fit {
                    Some(InFit { looked_up: 0, .. }) => None,
                    Some(in_fit) => Some(in_fit.is_test),
                    None => Some(true),
                },
                held_out,
            },
            (None, Some(pulls)) => Shown::Fitted {
                pulls,
                are_predicted: false,
            },
            (None, None) => Shown::Nothing,
        }
    }

    /// The unit of a label; empty where it has none.
    #[must_use]
    pub fn unit(&self, label: usize) -> &str {
        self.network.units.get(label).map_or("", String::as_str)
    }
}

/// Every other setting by its name: `compute.batch`, `16`.
pub(crate) fn others(settings: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Value::Object(entries) = settings {
        for (name, value) in entries {
            if !ELSEWHERE.contains(&name.as_str()) {
                flatten(name, value, &mut found);
            }
        }
    }
    found
}

fn or_nan<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

fn flatten(name: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                flatten(&format!("{name}.{key}"), value, found);
            }
        }
        Value::Array(values) if values.iter().all(|value| !value.is_object()) => {
            let texts: Vec<String> = values.iter().map(text).collect();
            let text = if texts.is_empty() {
                "none".to_owned()
            } else {
                texts.join(", ")
            };
            found.push((name.to_owned(), text));
        }
        other => found.push((name.to_owned(), text(other))),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_by_name() {
        let settings = serde_json::json!({
            "compute": { "batch": 16, "f": [1.5, 2] },
            "mask": null,
            "pulls": [1],
            "keep": [],
        });
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            others(&settings),
            [
                text("compute.batch", "16"),
                text("compute.f", "1.5, 2"),
                text("keep", "none"),
                text("mask", "none"),
            ]
        );
    }
}
