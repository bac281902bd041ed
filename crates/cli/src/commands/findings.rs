//! What a run found out, as tables: the error budget of each label, and the blocks of the Hessian.
//!
//! A run that just ended and the manifest of an old one give the same tables.

mod pulled;

use fisherflow_dataflow::RunSummary;
use fisherflow_report::settings::{Settings, Shown};
use fisherflow_store::Manifest;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::printing::{Grid, Page, count, number};

/// Adds the tables of a run that just ended to a page.
pub fn of_run(done: &RunSummary, page: &mut Page) {
    of_settings(&json!(done.findings()), page);
}

/// Adds the tables of an old run, at the URI, to a page; none where its manifest is of another version.
pub fn of_manifest(output: &str, manifest: &Manifest, page: &mut Page) {
    match manifest.check_version(output) {
        Ok(()) => of_settings(&manifest.settings, page),
        Err(error) => tracing::warn!("no tables of findings: {error}"),
    }
}

fn of_settings(settings: &Value, page: &mut Page) {
    match Settings::deserialize(settings) {
        Ok(settings) => print(&settings, page),
        Err(error) => tracing::warn!(%error, "the findings of this run are not understood"),
    }
}

/// Those that have rows.
fn print(settings: &Settings, page: &mut Page) {
    let (noise, intrinsic) = (&settings.noise_estimate, &settings.intrinsic_estimate);
    let stars = intrinsic.as_ref().map(|intrinsic| intrinsic.n_spectra);
    let stars = stars.or(noise.as_ref().map(|noise| noise.n_spectra));
    let shown = settings.shown();
    if stars.is_some() || shown != Shown::Nothing {
        page.gap().grid(&labels(settings)).line(match stars {
            Some(stars) => format!(
                "noise to intrinsic: standard deviations over {} held-out spectra; pulls: their errors in units of the error bars",
                count(stars)
            ),
            None => "pulls: errors in units of the error bars".to_owned(),
        });
        for line in pulled::pulled(shown) {
            page.line(line);
        }
    }
    if !settings.blocks.is_empty() {
        page.gap().grid(&blocks(settings));
        if let Some(effective) = &settings.effective_parameters {
            page.line(format!(
                "{} effective parameters in all; {} allow at most {}",
                effective.all.map_or("-".to_owned(), |x| format!("{x:.1}")),
                effective.of,
                count(effective.limit)
            ));
        }
    }
    if let Some(certificate) = settings.certificate.as_ref().filter(|found| !found.verdict.is_empty()) {
        page.gap();
        for verdict in &certificate.verdict {
            page.line(format!("certificate: {verdict}"));
        }
    }
}

/// A row a label.
fn labels(settings: &Settings) -> Grid {
    let k = settings.network.labels.len();
    let shown = |sigma: Option<f64>| sigma.map_or("-".to_owned(), |sigma| number(rounded(sigma)));
    let sigma = |covariance: Option<&Vec<f64>>, i: usize| {
        let variance = covariance.and_then(|c| c.get(i * k + i));
        shown(variance.map(|v| v.max(0.0).sqrt()))
    };
    let intrinsic = settings.intrinsic_estimate.as_ref();
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
    let pulls = settings.shown().pulls();
    for (i, label) in settings.network.labels.iter().enumerate() {
        let pulls = pulls.get(i);
        let pull = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.3}"));
        grid.row(vec![
            label.clone(),
            settings.unit(i).to_owned(),
            sigma(settings.noise_estimate.as_ref().map(|n| &n.covariance), i),
            sigma(intrinsic.map(|e| &e.mean_flux), i),
            sigma(intrinsic.map(|e| &e.mean_weights), i),
            shown(intrinsic.and_then(|e| e.intrinsic.standard_deviation(i))),
            pull(pulls.map(|p| p.mean)),
            pull(pulls.map(|p| p.standard_deviation)),
            pull(pulls.map(|p| p.within_one_sigma)),
        ]);
    }
    grid
}

/// To four digits: more are not known of some hundred spectra.
fn rounded(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

/// A row a block.
fn blocks(settings: &Settings) -> Grid {
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
    for (at, block) in settings.blocks.iter().enumerate() {
        let own = settings.certificate.as_ref().and_then(|found| found.blocks.get(at));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_tells_what_a_run_found() {
        let settings = json!({
            "network": { "weights": 7, "labels": ["teff"], "units": ["K"] },
            "noise_estimate": { "covariance": [400.0], "n_spectra": 52, "clipped": 0 },
            "intrinsic_estimate": null,
            "pulls": [{ "n_spectra": 52, "mean": 0.1, "standard_deviation": 1.05, "within_one_sigma": 0.68 }],
            "pulls_over": "predicted",
            "certificate": { "blocks": [{ "sigma_ratio": { "median": 0.917, "p05": 0.8, "p95": 1.1 }, "answer_error": 2e-7,
                "newton": { "decrement": null }, "verdict": [] }], "verdict": ["errors are small"], "newton": null },
            "blocks": [{ "block": 0, "layers": ["a", "b"], "structure": "full", "n_weights": 7, "n_spectra": 52,
                "clipped_eigenvalues": 0, "effective_parameters": 3.5, "log_det": 12.25, "condition": 1e4 }],
            "effective_parameters": { "all": 3.5, "by_layer": { "a+b": 3.5 }, "limit": 52, "of": "spectra" },
        });
        let mut page = Page::new();
        of_settings(&settings, &mut page);
        let lines: Vec<String> = page.to_string().lines().map(str::to_owned).collect();
        assert_eq!(
            lines[1],
            "teff   K        20     -        -          -      0.100     1.050     0.680"
        );
        assert!(lines[2].contains("52 held-out spectra"));
        assert_eq!(
            lines[6],
            "a+b    full             7      -        3.5     12.2      1.0e4      0.92      2e-7          -"
        );
        assert_eq!(lines[7], "3.5 effective parameters in all; spectra allow at most 52");
        assert_eq!(lines.last().unwrap(), "certificate: errors are small");
        let fitted = json!({
            "network": { "weights": 7, "labels": ["teff"], "units": ["K"] },
            "noise_estimate": { "covariance": [400.0], "n_spectra": 52 },
            "held_out_pulls": [{ "n_spectra": 52, "mean": 0.1, "standard_deviation": 1.05, "within_one_sigma": 0.68 }],
        });
        let mut page = Page::new();
        of_settings(&fitted, &mut page);
        let said = page.to_string();
        assert!(
            said.contains("0.100     1.050     0.680\n")
                && said.ends_with("over 52 held-out spectra that the error bars are fitted to: no independent test"),
            "{said}"
        );
        let mut page = Page::new();
        of_settings(&json!({ "blocks": 3 }), &mut page);
        assert_eq!(page, Page::new());
    }

    /// With a given R, and no spectrum held out.
    #[test]
    fn pulls_are_told_where_neither_r_nor_c_intrinsic_was_estimated() {
        let predicted = json!({
            "network": { "weights": 7, "labels": ["teff"], "units": ["K"] },
            "pulls": [{ "n_spectra": 52, "mean": 0.1, "standard_deviation": 1.05, "within_one_sigma": 0.68 }],
            "pulls_over": "predicted",
        });
        let mut page = Page::new();
        of_settings(&predicted, &mut page);
        let said = page.to_string();
        assert!(
            said.contains("0.100     1.050     0.680\n") && said.contains("pulls are over 52 spectra of [predict]"),
            "{said}"
        );
        assert!(!said.contains("held-out"), "{said}");
    }

    #[test]
    fn a_scatter_that_vanishes_is_0_and_none_has_digits_that_nobody_knows() {
        let row = |vanishing: usize| {
            let settings = json!({
                "network": { "weights": 7, "labels": ["teff"], "units": ["K"] },
                "intrinsic_estimate": { "covariance": [1e-20], "vanishing": vanishing, "n_spectra": 268, "mean_residual": [0.0],
                    "residual_second_moment": [1.0], "mean_flux": [192_900.745_7], "mean_weights": [0.881], "mean_label_covariance": [0.0] },
            });
            let mut page = Page::new();
            of_settings(&settings, &mut page);
            let row = page.to_string().lines().nth(1).unwrap().to_owned();
            row.split_whitespace().map(str::to_owned).collect::<Vec<_>>()[2..6].join(" ")
        };
        assert_eq!(row(1), "- 439.2 0.9386 0");
        assert_eq!(row(0), "- 439.2 0.9386 1.0000e-10");
    }
}
