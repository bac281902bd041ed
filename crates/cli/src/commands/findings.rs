//! What a run found out, as tables: the error budget of each label, and the blocks of the Hessian.
//!
//! A run that just ended and the manifest of an old one give the same tables.

mod pulled;

use fisherflow_dataflow::RunSummary;
use fisherflow_store::Manifest;
use serde::Deserialize;

use crate::commands::findings::pulled::InFit;
use crate::printing::{Grid, Page, count, number};

/// What a run found out; the parts of the manifest's `settings` that tell it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Findings {
    network: Network,
    noise_estimate: Option<Scatter>,
    intrinsic_estimate: Option<Scatter>,
    pulls: Option<Vec<Pulls>>,
    pulls_over: Option<String>,
    pulls_in_fit: Option<InFit>,
    held_out_pulls: Option<Vec<Pulls>>,
    effective_parameters: Option<Effective>,
    blocks: Vec<Block>,
    certificate: Option<Certificate>,
}

/// The labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Network {
    labels: Vec<String>,
    units: Vec<String>,
}

/// Covariances `[K * K]`, label units.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Scatter {
    covariance: Vec<f64>,
    mean_flux: Vec<f64>,
    mean_weights: Vec<f64>,
    n_spectra: u64,
}

/// How many weights the data determine, and how many they can.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Effective {
    all: f64,
    limit: u64,
    /// What the limit counts; an old manifest may not say.
    of: Option<String>,
}

/// The pulls of a label.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Pulls {
    #[serde(default)]
    n_spectra: u64,
    mean: f64,
    standard_deviation: f64,
    within_one_sigma: f64,
}

/// How far the error bars may be trusted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Certificate {
    blocks: Vec<BlockCertificate>,
    verdict: Vec<String>,
    newton: Option<Newton>,
}

/// The same of a block.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct BlockCertificate {
    sigma_ratio: Option<SigmaRatio>,
    answer_error: Option<f64>,
    newton: Option<Newton>,
}

/// Standard deviations over exact ones.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct SigmaRatio {
    median: f64,
}

/// How far the minimum of the loss is.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Newton {
    decrement: Option<f64>,
}

/// A block of the Hessian.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Block {
    layers: Vec<String>,
    structure: String,
    n_weights: u64,
    /// Numbers that are not finite are null in JSON.
    prior_precision: Option<f64>,
    effective_parameters: Option<f64>,
    log_det: Option<f64>,
    condition: Option<f64>,
}

impl Findings {
    /// What a run that just ended found out.
    pub fn of_run(done: &RunSummary) -> Self {
        let settings = serde_json::json!({
            "network": { "labels": done.labels, "units": done.units },
            "noise_estimate": done.noise,
            "intrinsic_estimate": done.intrinsic,
            "pulls": done.pulls,
            "pulls_over": done.pulls_over,
            "pulls_in_fit": done.pulls_in_fit,
            "held_out_pulls": done.held_out_pulls,
            "effective_parameters": done.effective_parameters,
            "blocks": done.blocks,
            "certificate": done.certificate,
        });
        Self::of_settings(settings)
    }

    /// What an old run found out.
    pub fn of_manifest(manifest: &Manifest) -> Self {
        Self::of_settings(manifest.settings.clone())
    }

    /// A manifest of another version of fisherflow may lack some of it: then the tables are not printed.
    fn of_settings(settings: serde_json::Value) -> Self {
        serde_json::from_value(settings).unwrap_or_else(|error| {
            tracing::warn!(%error, "the findings of this run are not understood");
            Self::default()
        })
    }

    /// Adds the tables that have rows to a page.
    pub fn print_to(&self, page: &mut Page) {
        if self.noise_estimate.is_some() || self.intrinsic_estimate.is_some() {
            let stars = self.intrinsic_estimate.as_ref().or(self.noise_estimate.as_ref());
            page.gap().grid(&self.labels()).line(format!(
                "noise to intrinsic: standard deviations over {} held-out spectra; pulls: their errors in units of the error bars",
                count(stars.map_or(0, |s| s.n_spectra))
            ));
            for line in self.pulled() {
                page.line(line);
            }
        }
        if !self.blocks.is_empty() {
            page.gap().grid(&self.blocks());
            if let Some(effective) = &self.effective_parameters {
                page.line(format!(
                    "{:.1} effective parameters in all; {} allow at most {}",
                    effective.all,
                    effective.of.as_deref().unwrap_or("labels x spectra"),
                    count(effective.limit)
                ));
            }
        }
        if let Some(certificate) = self.certificate.as_ref().filter(|found| !found.verdict.is_empty()) {
            page.gap();
            for verdict in &certificate.verdict {
                page.line(format!("certificate: {verdict}"));
            }
        }
    }

    /// A row a label.
    fn labels(&self) -> Grid {
        let k = self.network.labels.len();
        let sigma = |covariance: Option<&Vec<f64>>, i: usize| {
            let variance = covariance.and_then(|c| c.get(i * k + i));
            variance.map_or("-".to_owned(), |v| number(v.max(0.0).sqrt()))
        };
        let intrinsic = self.intrinsic_estimate.as_ref();
        let mut grid = Grid::new(&[
            "label",
            "unit",
            "noise",
            "flux",
            "weights",
            "intrinsic",
            "pull mean",
            "pull std",
            "within 1",
        ]);
        for (i, label) in self.network.labels.iter().enumerate() {
            let pulls = self.pulls.as_ref().or(self.held_out_pulls.as_ref());
            let pulls = pulls.and_then(|pulls| pulls.get(i));
            let pull = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.3}"));
            grid.row(vec![
                label.clone(),
                self.network.units.get(i).cloned().unwrap_or_default(),
                sigma(self.noise_estimate.as_ref().map(|n| &n.covariance), i),
                sigma(intrinsic.map(|e| &e.mean_flux), i),
                sigma(intrinsic.map(|e| &e.mean_weights), i),
                sigma(intrinsic.map(|e| &e.covariance), i),
                pull(pulls.map(|p| p.mean)),
                pull(pulls.map(|p| p.standard_deviation)),
                pull(pulls.map(|p| p.within_one_sigma)),
            ]);
        }
        grid
    }

    /// A row a block.
    fn blocks(&self) -> Grid {
        let mut grid = Grid::new(&[
            "block",
            "structure",
            "weights",
            "prior",
            "effective",
            "log det",
            "condition",
            "of exact",
            "rounding",
            "decrement",
        ]);
        for (at, block) in self.blocks.iter().enumerate() {
            let own = self.certificate.as_ref().and_then(|found| found.blocks.get(at));
            grid.row(vec![
                block.layers.join("+"),
                block.structure.clone(),
                count(block.n_weights),
                block.prior_precision.map_or("-".to_owned(), number),
                block.effective_parameters.map_or("-".to_owned(), |x| format!("{x:.1}")),
                block.log_det.map_or("-".to_owned(), |x| format!("{x:.1}")),
                block.condition.map_or("-".to_owned(), |x| format!("{x:.1e}")),
                own.and_then(|own| own.sigma_ratio)
                    .map_or("-".to_owned(), |ratio| format!("{:.2}", ratio.median)),
                own.and_then(|own| own.answer_error)
                    .map_or("-".to_owned(), |x| format!("{x:.0e}")),
                own.and_then(|own| own.newton?.decrement)
                    .map_or("-".to_owned(), |x| format!("{x:.1}")),
            ]);
        }
        grid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_tells_what_a_run_found() {
        let settings = serde_json::json!({
            "network": { "weights": 7, "labels": ["teff"], "units": ["K"] },
            "noise_estimate": { "covariance": [400.0], "mean_flux": [0.0], "mean_weights": [0.0], "n_spectra": 52, "clipped": 0 },
            "intrinsic_estimate": null,
            "pulls": [{ "n_spectra": 52, "mean": 0.1, "standard_deviation": 1.05, "within_one_sigma": 0.68 }],
            "certificate": { "blocks": [{ "sigma_ratio": { "median": 0.917 }, "answer_error": 2e-7, "newton": { "decrement": null } }],
                "verdict": ["errors are small"], "newton": null },
            "blocks": [{ "block": 0, "layers": ["a", "b"], "structure": "full", "n_weights": 7,
                "effective_parameters": 3.5, "log_det": 12.25, "condition": 1e4 }],
            "effective_parameters": { "all": 3.5, "by_layer": { "a+b": 3.5 }, "limit": 52, "of": "spectra" },
        });
        let mut page = Page::new();
        Findings::of_settings(settings).print_to(&mut page);
        let lines: Vec<String> = page.to_string().lines().map(str::to_owned).collect();
        assert_eq!(
            lines[1],
            "teff   K        20     -        -          -      0.100     1.050     0.680"
        );
        assert!(lines[2].contains("52 held-out spectra"));
        assert_eq!(
            lines[5],
            "a+b    full             7      -        3.5     12.2      1.0e4      0.92      2e-7          -"
        );
        assert_eq!(lines[6], "3.5 effective parameters in all; spectra allow at most 52");
        assert_eq!(lines.last().unwrap(), "certificate: errors are small");
        let fitted = serde_json::json!({
            "network": { "labels": ["teff"], "units": ["K"] },
            "noise_estimate": { "covariance": [400.0], "mean_flux": [0.0], "mean_weights": [0.0], "n_spectra": 52 },
            "held_out_pulls": [{ "n_spectra": 52, "mean": 0.1, "standard_deviation": 1.05, "within_one_sigma": 0.68 }],
        });
        let mut page = Page::new();
        Findings::of_settings(fitted).print_to(&mut page);
        let said = page.to_string();
        assert!(
            said.contains("0.100     1.050     0.680\n")
                && said.ends_with("over 52 held-out spectra that the error bars are fitted to: no independent test"),
            "{said}"
        );
        assert_eq!(Findings::of_settings(serde_json::json!({})), Findings::default());
        assert_eq!(
            Findings::of_settings(serde_json::json!({"blocks": 3})),
            Findings::default()
        );
    }
}
