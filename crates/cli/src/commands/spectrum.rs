//! `spectrum`: the eigenvalues of a run's curvature over all weights, in one screen and in tables.

use std::sync::Arc;

use fisherflow_curvature::Ritz;
use fisherflow_dataflow::{Cluster, Job, Meter, SpectrumReport, SpectrumSettings};

use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Grid, Page, count, number};
use crate::signals;

/// Decades of the printed density.
const DECADES: i32 = 12;

/// Finds the eigenvalues, and prints what they are in the first process.
///
/// # Errors
/// Whatever ended it.
pub fn spectrum(
    job: Job,
    settings: SpectrumSettings,
    cluster: &Cluster,
    meter: &Arc<Meter>,
    terminal: &Terminal,
) -> Result<(), CliError> {
    signals::heed(&cluster.interrupt, terminal)?;
    let kind = settings.kind.name();
    if let Some(report) = fisherflow_dataflow::spectrum(Arc::new(job), settings, cluster, Arc::clone(meter))? {
        page(kind, &report).tell(terminal);
    }
    Ok(())
}

fn page(kind: &str, report: &SpectrumReport) -> Page {
    let density = &report.density;
    let (probes, steps) = report.done;
    let negative = density.share_up_to(-density.rounding);
    let extreme = |ritz: &Ritz| format!("{}, residual {}", number(ritz.value), number(ritz.residual));
    let mut page = Page::new();
    page.facts(&[
        (
            "curvature",
            format!(
                "{kind} of {} weights, the sum over {} spectra",
                count(density.n_weights as u64),
                count(report.n_spectra)
            ),
        ),
        (
            "found by",
            format!("{probes} probes of {steps} Lanczos steps, {:.1} s", report.seconds),
        ),
        ("largest", extreme(&density.largest)),
        ("smallest", extreme(&density.smallest)),
        (
            "trace",
            match density.trace_error {
                Some(error) => format!("{} +- {}", number(density.trace), number(error)),
                None => number(density.trace),
            },
        ),
        (
            "negative",
            format!(
                "{:.3} % of the eigenvalues by the nodes, {:.3} to {:.3} by these probes, and {:.3} % of the sum of their sizes (below -{}: beyond rounding)",
                100.0 * density.negative_share,
                100.0 * negative[0],
                100.0 * negative[1],
                100.0 * density.negative_trace_share,
                number(density.rounding)
            ),
        ),
        ("files", format!("{}: nodes, density, summary (parquet)", report.out)),
    ]);
    page.line(
        "shares of eigenvalues are those of the Lanczos nodes, and between what these steps prove for the probes: near 0 they settle slowly, so where \
         that is too wide take more --steps",
    );
    page.gap().grid(&decades(report));
    page
}

/// How many eigenvalues, about, and at least and at most, are in each decade below the largest.
fn decades(report: &SpectrumReport) -> Grid {
    let density = &report.density;
    let probes = report.done.0 as f64;
    let share = |inside: &dyn Fn(f64) -> bool| {
        let nodes = density.nodes.iter().filter(|node| inside(node.ritz.value));
        nodes.map(|node| node.ritz.weight).sum::<f64>() / probes
    };
    let mut grid = Grid::new(&["eigenvalues", "share %", "about", "at least", "at most"]);
    let mut row = |name: String, share: f64, [least, most]: [f64; 2]| {
        let counted = |share: f64| count((share * density.n_weights as f64).round() as u64);
        if share > 0.0 {
            grid.row(vec![
                name,
                format!("{:.3}", 100.0 * share),
                counted(share),
                counted(least),
                counted(most),
            ]);
        }
    };
    let rounding = density.rounding;
    let top = density.largest.value.max(rounding).log10().floor() as i32;
    for decade in (top - DECADES..=top).rev() {
        let (low, high) = (10f64.powi(decade).max(rounding), 10f64.powi(decade + 1));
        if low < high {
            row(
                format!("{} to {}", number(low), number(high)),
                share(&|v| v > low && v <= high),
                density.share_between(low, high),
            );
        }
    }
    let within = density.share_between(-rounding, rounding);
    row("0 to rounding".to_owned(), share(&|v| v.abs() <= rounding), within);
    let negative = density.share_up_to(-rounding);
    row("negative".to_owned(), share(&|v| v < -rounding), negative);
    grid
}
