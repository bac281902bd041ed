//! The blocks of the weights' posterior.

use crate::findings::Findings;
use crate::html::{Cell, paragraph, table, warning};
use crate::numbers::{count, counted, significant};
use crate::settings::{Block, BlockCertificate, Effective, SigmaRatio};

/// The section.
pub(crate) fn blocks(findings: &Findings) -> String {
    let settings = &findings.settings;
    if settings.blocks.is_empty() {
        return paragraph("The output has no blocks.");
    }
    let certified = |at: usize| settings.certificate.as_ref().and_then(|found| found.blocks.get(at));
    let of_block = |(at, of): (usize, &Block)| block(of, certified(at));
    let rows: Vec<Vec<Cell>> = settings.blocks.iter().enumerate().map(of_block).collect();
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
        "sigma / exact",
        "error of arithmetic",
        "gradient",
        "Newton decrement",
        "verdict",
    ];
    table(&header, &rows) + &certificate(findings) + &effective(findings) + &noise(findings)
}

fn block(block: &Block, own: Option<&BlockCertificate>) -> Vec<Cell> {
    let number = |value: Option<f64>, digits| Cell::Number(significant(value.unwrap_or(f64::NAN), digits));
    let newton = own.and_then(|own| own.newton);
    vec![
        Cell::text(block.layers.join(" + ")),
        Cell::text(block.structure.as_str()),
        Cell::Number(count(block.n_weights)),
        Cell::Number(count(block.n_spectra)),
        number(block.prior_precision, 3),
        number(block.log_det, 5),
        number(block.effective_parameters, 4),
        number(block.condition, 3),
        Cell::Number(count(block.clipped_eigenvalues)),
        number(block.jitter, 2),
        Cell::Number(ratio(own.and_then(|own| own.sigma_ratio))),
        number(own.and_then(|own| own.answer_error), 1),
        number(newton.and_then(|newton| newton.gradient_norm), 3),
        number(newton.and_then(|newton| newton.decrement), 3),
        Cell::text(own.map(|own| own.verdict.join("; ")).unwrap_or_default()),
    ]
}

/// How the page calls a compared structure.
fn name(structure: &str) -> &str {
    if structure == "run" { "this run" } else { structure }
}

/// `0.57 (0.42 to 0.72)`: the median, and 5 to 95 %.
fn ratio(found: Option<SigmaRatio>) -> String {
    let Some(SigmaRatio { median, p05, p95, .. }) = found else {
        return significant(f64::NAN, 2);
    };
    format!("{median:.2} ({p05:.2} to {p95:.2})")
}

/// How far the error bars may be trusted: the verdicts, and every structure compared with the exact posterior.
fn certificate(findings: &Findings) -> String {
    let Some(certificate) = &findings.settings.certificate else {
        return String::new();
    };
    let mut html: String = certificate
        .verdict
        .iter()
        .map(|verdict| paragraph(&format!("Certificate: {verdict}.")))
        .collect();
    if let Some(compared) = &certificate.comparison {
        let row = |name: &str, found: Option<SigmaRatio>, effective: f64| {
            vec![
                Cell::text(name),
                Cell::Number(ratio(found)),
                Cell::Number(significant(found.and_then(|r| r.spearman).unwrap_or(f64::NAN), 3)),
                Cell::Number(significant(effective, 4)),
            ]
        };
        let mut rows = vec![row("exact", None, compared.effective_parameters)];
        rows.extend(
            compared
                .structures
                .iter()
                .map(|s| row(name(&s.structure), s.ratio, s.effective_parameters)),
        );
        html += &table(
            &["structure", "sigma / exact", "rank correlation", "effective parameters"],
            &rows,
        );
        html += &paragraph(&format!(
            "Standard deviations of the weights' part over those of the exact posterior of all weights, both of {} training spectra, for {}: \
             median (5 to 95 %) over stars and labels. At most {} parameters can be determined by them.",
            count(compared.n_spectra),
            counted(compared.n_stars, "star", "stars"),
            significant(compared.effective_limit, 4)
        ));
    }
    html
}

/// Effective parameters against how many can be determined, which depends on the kind of the curvature.
fn effective(findings: &Findings) -> String {
    let Some(Effective { all, limit, of }) = &findings.settings.effective_parameters else {
        return String::new();
    };
    let effective = all.unwrap_or(f64::NAN);
    let compared = format!(
        "All blocks together have {} effective parameters; {of} allow at most {}.",
        significant(effective, 4),
        count(*limit)
    );
    // A block that is determined whole may be above it by rounding.
    if effective > *limit as f64 * (1.0 + 1e-9) {
        warning(&format!(
            "{compared} The structure counts information that is not there, and the weights' part of the error bars is too small."
        ))
    } else {
        paragraph(&compared)
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
    let beside = match findings.settings.errors_in_variables {
        true => "each label's own errors and what photon noise does to it",
        false => "each label's own errors",
    };
    paragraph(&format!(
        "The Hessian weighs the labels by R, beside {beside}, from the residuals of {}: {}.",
        counted(noise.n_spectra, "held-out spectrum", "held-out spectra"),
        sigmas.join(", ")
    ))
}
