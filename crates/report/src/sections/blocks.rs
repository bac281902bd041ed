//! The blocks of the weights' posterior.

use fisherflow_store::BlockRow;

use crate::findings::Findings;
use crate::html::{Cell, paragraph, table, warning};
use crate::numbers::{count, counted, significant};

/// The section.
pub(crate) fn blocks(findings: &Findings) -> String {
    if findings.blocks.is_empty() {
        return paragraph("The output has no blocks.");
    }
    let rows: Vec<Vec<Cell>> = findings.blocks.iter().map(block).collect();
    let header = [
        "layers",
        "structure",
        "weights",
        "spectra",
        "prior precision",
        "log det",
        "effective parameters",
        "condition",
        "clipped",
        "jitter",
    ];
    table(&header, &rows) + &effective(findings) + &prior(findings) + &noise(findings)
}

fn block(block: &BlockRow) -> Vec<Cell> {
    vec![
        Cell::text(block.layer.replace('+', " + ")),
        Cell::text(block.structure.as_str()),
        Cell::Number(count(block.n_weights)),
        Cell::Number(count(block.n_spectra)),
        Cell::Number(significant(block.prior_precision, 3)),
        Cell::Number(significant(block.log_det, 5)),
        Cell::Number(significant(block.effective_parameters, 4)),
        Cell::Number(significant(block.condition, 3)),
        Cell::Number(count(block.clipped_eigenvalues)),
        Cell::Number(significant(block.jitter, 2)),
    ]
}

/// Effective parameters against what labels and spectra can determine.
fn effective(findings: &Findings) -> String {
    let labels = findings.settings.network.labels.len() as u64;
    let spectra = findings.blocks.iter().map(|block| block.n_spectra).max().unwrap_or(0);
    let limit = labels * spectra;
    let effective: f64 = findings.blocks.iter().map(|block| block.effective_parameters).sum();
    let compared = format!(
        "All blocks together have {} effective parameters; {} labels x {} spectra can determine at most {}.",
        significant(effective, 4),
        labels,
        count(spectra),
        count(limit)
    );
    if effective > limit as f64 {
        warning(&format!(
            "{compared} The structure counts information that is not there, and the weights' part of the error bars is too small."
        ))
    } else {
        paragraph(&compared)
    }
}

/// How the evidence chose the prior.
fn prior(findings: &Findings) -> String {
    let Some((prior, evidence)) = findings.settings.prior.and_then(|prior| Some((prior, prior.evidence?))) else {
        return String::new();
    };
    let found = format!(
        "The prior precision {} is by evidence: {} effective parameters over {} for the sum of squared weights and biases.",
        significant(prior.precision.unwrap_or(f64::NAN), 4),
        significant(evidence.effective_parameters, 4),
        significant(evidence.weights_squared, 4)
    );
    if evidence.at_edge {
        warning(&format!(
            "{found} It is the end of the curve (posterior/evidence.parquet), which still rises there: no optimum."
        ))
    } else {
        paragraph(&format!(
            "{found} The curve is posterior/evidence.parquet. One prior for all weights can be far from calibrated: the pulls decide."
        ))
    }
}

/// How the labels are weighed in the Hessian.
fn noise(findings: &Findings) -> String {
    let Some(noise) = &findings.settings.noise_estimate else {
        return String::new();
    };
    let labels = &findings.settings.network.labels;
    let sigma = |(label, name): (usize, &String)| {
        let variance = noise.covariance.get(label * (labels.len() + 1));
        let sigma = variance.copied().unwrap_or(f64::NAN).sqrt();
        let text = format!("{name} {} {}", significant(sigma, 3), findings.settings.unit(label));
        text.trim_end().to_owned()
    };
    let sigmas: Vec<String> = labels.iter().enumerate().map(sigma).collect();
    paragraph(&format!(
        "The Hessian weighs the labels by their noise R, from the residuals of {}: {}.",
        counted(noise.n_spectra, "held-out spectrum", "held-out spectra"),
        sigmas.join(", ")
    ))
}
