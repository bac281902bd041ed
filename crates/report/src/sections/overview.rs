//! What a reader should know first: how many spectra have error bars, how large they are, and what was repaired or left out.

use crate::findings::Findings;
use crate::html::{Cell, escape, paragraph, table, warning};
use crate::numbers::{count, counted, significant};
use crate::quantiles::spread;
use crate::settings::Shown;

/// The head of the page.
pub(crate) fn overview(findings: &Findings) -> String {
    let predictions = &findings.predictions;
    let with = predictions.rows - predictions.bad;
    let without = match predictions.bad {
        0 => "none is without".to_owned(),
        1 => "1 is without".to_owned(),
        bad => format!("{} are without", count(bad)),
    };
    let mut out = paragraph(&format!(
        "{} of {} {} predictions with error bars; {without}.",
        count(with),
        counted(predictions.rows, "spectrum", "spectra"),
        if with == 1 { "has" } else { "have" },
    ));
    out.push_str(&notes(findings));
    out.push_str(&medians(findings));
    out
}

fn notes(findings: &Findings) -> String {
    let notes = &findings.manifest.notes;
    let mut out = String::new();
    if let Some(&expected) = findings.manifest.counts.get("predict_spectra")
        && expected != findings.predictions.rows
    {
        out.push_str(&warning(&format!(
            "The predictions hold {} rows and the manifest counts {expected}: run `fisherflow verify` on this output.",
            findings.predictions.rows
        )));
    }
    if notes.is_empty() {
        return out + &paragraph("The run repaired nothing and left no object out.");
    }
    out.push_str("<div class=\"warning\"><strong>The run noted</strong><ul>\n");
    for note in notes {
        out.push_str(&format!("<li>{}</li>\n", escape(note)));
    }
    out.push_str("</ul></div>\n");
    out
}

fn medians(findings: &Findings) -> String {
    let labels = &findings.settings.network.labels;
    let shown = findings.settings.shown();
    let pulls = shown.pulls();
    let number = |value: Option<f64>| Cell::Number(significant(value.unwrap_or(f64::NAN), 3));
    let row = |(label, name): (usize, &String)| {
        let middle = spread(findings.predictions.errors(label));
        vec![
            Cell::text(name),
            Cell::text(findings.settings.unit(label)),
            number(middle.map(|spread| spread.median)),
            number(pulls.get(label).map(|pulls| pulls.standard_deviation)),
        ]
    };
    let rows: Vec<Vec<Cell>> = labels.iter().enumerate().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let scatter = match shown {
        Shown::Predicted { is_test: None, .. } => "scatter of the pulls (a test or not: unknown)",
        Shown::Predicted {
            is_test: Some(true), ..
        } => "scatter of the pulls (1 is right)",
        Shown::Predicted { .. } | Shown::Fitted { .. } => "scatter of the pulls (no test)",
        Shown::Nothing => "scatter of the pulls",
    };
    table(&["label", "unit", "median error bar", scatter], &rows)
}
