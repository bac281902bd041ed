//! One HTML page about a finished output, from its manifest and its Parquet tables alone.
//!
//! The page needs nothing but itself: plots are inline SVG, there is no script and no font to load. It is the same, byte for byte, for the
//! same output.
//!
//! Invariants: no network, curvature or posterior is known here; tables are read in batches, and what is kept of them does not grow with
//! the number of spectra.

mod error;
mod findings;
mod histogram;
mod html;
mod jacobians;
mod numbers;
mod page;
mod plot;
mod predictions;
mod quantiles;
mod sample;
mod sections;
pub mod settings;
mod ticks;

use fisherflow_store::{Output, Stores};

pub use error::ReportError;

/// Where the page is in an output.
pub const REPORT: &str = "report.html";

/// A page that is not written yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// All of it.
    pub html: String,
    /// The run it is about.
    pub run_id: String,
}

/// The page that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its URI.
    pub uri: String,
    /// Its size.
    pub bytes: u64,
    /// The run it is about.
    pub run_id: String,
}

/// Reads a finished output and writes `<output>/report.html`, over one that is there.
///
/// # Errors
/// The output has no manifest ([`ReportError::NotFinished`]), a table cannot be read or is unlike what a run writes, or the page cannot be
/// written.
pub fn write(stores: &Stores, output_uri: &str) -> Result<Written, ReportError> {
    let output = Output::open(stores, output_uri)?;
    let Drawn { html, run_id } = draw(stores, output.uri())?;
    let uri = output.child(REPORT);
    let bytes = html.len() as u64;
    stores.write(&uri, html.into_bytes())?;
    Ok(Written { uri, bytes, run_id })
}

/// Reads a finished output and draws its page; writes nothing.
///
/// # Errors
/// As [`write()`], but for the writing.
pub fn draw(stores: &Stores, output_uri: &str) -> Result<Drawn, ReportError> {
    let output = Output::open(stores, output_uri)?;
    let findings = findings::find(stores, &output)?;
    Ok(Drawn {
        html: page::page(&findings)?,
        run_id: findings.manifest.run_id,
    })
}
