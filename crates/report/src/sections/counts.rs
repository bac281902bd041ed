//! Counts of everything: what came in, what went into the sums, what was left out and why.

use crate::findings::Findings;
use crate::html::{Cell, paragraph, table};
use crate::numbers::{count, percent};
use crate::predictions::Flag;

/// What the manifest's counts are called on the page, in its order; others follow under their own names.
const NAMES: [(&str, &str); 14] = [
    ("fit_spectra", "spectra in the catalogue of the fit"),
    ("fit_in_sums", "in the sums over spectra (the Hessian)"),
    (
        "fit_overwhelmed",
        "of these without weight: their photons' errors are far beyond R",
    ),
    ("fit_held_out", "held out from the sums"),
    ("fit_unlabelled", "without all labels: not in the sums"),
    ("fit_bad", "bad: not in the sums"),
    ("fit_excluded", "left out by a list of ids: not in the sums"),
    ("predict_spectra", "spectra in the predictions"),
    ("predict_bad", "bad: in the predictions with nulls"),
    (
        "predict_excluded",
        "left out by a list of ids: in the predictions with nulls",
    ),
    ("predict_pixels_masked", "predicted with masked pixels"),
    ("predict_unlike_fit", "predicted, unlike the spectra of the fit"),
    (
        "predict_weights_in_f32",
        "predicted with the weights' part in f32: shorter numbers were not exact enough",
    ),
    (
        "predict_overwhelmed",
        "in no pulls: an error of their own is far beyond all residuals",
    ),
];

/// The section.
pub(crate) fn counts(findings: &Findings) -> String {
    let counts = &findings.manifest.counts;
    let known = NAMES
        .iter()
        .filter_map(|&(key, name)| counts.get(key).map(|&value| (name, value)));
    let unknown = counts
        .iter()
        .filter(|(key, _)| NAMES.iter().all(|(known, _)| known != key))
        .map(|(key, &value)| (key.as_str(), value));
    let rows: Vec<Vec<Cell>> = known
        .chain(unknown)
        .map(|(name, value)| vec![Cell::text(name), Cell::Number(count(value))])
        .collect();
    let mut out = table(&["what", "count"], &rows);
    out.push_str("<h3>Flags of the predicted spectra</h3>\n");
    out.push_str(&flags(findings));
    out.push_str("<h3>Objects left out</h3>\n");
    out.push_str(&skipped(findings));
    out
}

fn flags(findings: &Findings) -> String {
    let predictions = &findings.predictions;
    let row = |flag: &Flag| {
        vec![
            Cell::Number(flag.bit.to_string()),
            Cell::text(flag.name.as_str()),
            Cell::text(if flag.bad { "no prediction" } else { "" }),
            Cell::Number(count(flag.rows)),
            Cell::Number(percent(flag.rows as f64 / predictions.rows as f64)),
            Cell::text(flag.description.as_str()),
        ]
    };
    let mut seen: Vec<&Flag> = predictions.flags.iter().filter(|flag| flag.rows > 0).collect();
    seen.sort_by_key(|flag| flag.bit);
    let never: Vec<&str> = predictions
        .flags
        .iter()
        .filter(|flag| flag.rows == 0)
        .map(|flag| flag.name.as_str())
        .collect();
    let mut out = if seen.is_empty() {
        paragraph("No spectrum has a flag.")
    } else {
        let rows: Vec<Vec<Cell>> = seen.into_iter().map(row).collect();
        table(&["bit", "flag", "", "spectra", "share", "meaning"], &rows)
    };
    if !never.is_empty() {
        out.push_str(&paragraph(&format!("On no spectrum: {}.", never.join(", "))));
    }
    out
}

fn skipped(findings: &Findings) -> String {
    let rows: Vec<Vec<Cell>> = findings
        .manifest
        .inputs
        .iter()
        .flat_map(|input| input.skipped.iter().map(move |skipped| (input, skipped)))
        .map(|(input, skipped)| {
            vec![
                Cell::text(input.role.as_str()),
                Cell::text(skipped.object.as_str()),
                Cell::text(skipped.reason.as_str()),
            ]
        })
        .collect();
    if rows.is_empty() {
        return paragraph("None.");
    }
    table(&["input", "object", "reason"], &rows)
}
