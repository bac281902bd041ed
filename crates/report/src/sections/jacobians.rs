//! Which pixels a label answers to.

use crate::ReportError;
use crate::findings::Findings;
use crate::html::{figure, figures, paragraph};
use crate::jacobians::thinned;
use crate::numbers::count;
use crate::plot::{Axis, BandPoint, band};

/// Points of a line, at most.
const POINTS: usize = 400;

/// The section; none where the output has no Jacobians.
pub(crate) fn jacobians(findings: &Findings) -> Result<Option<String>, ReportError> {
    let Some(jacobians) = &findings.jacobians else {
        return Ok(None);
    };
    let mut out = paragraph(&format!(
        "The derivative of a label with respect to the flux of each pixel, in the label's unit per flux unit: times the flux error, and added up in \
         squares over the pixels, it is the flux's part of the error bar. From the first {} of {} rows (a row a spectrum and label).",
        count(jacobians.looked_at),
        count(jacobians.rows)
    ));
    let mut found = Vec::new();
    for (label, name) in findings.settings.network.labels.iter().enumerate() {
        let pixels = &jacobians.labels[label];
        if pixels.is_empty() {
            continue;
        }
        let points: Vec<BandPoint> = thinned(pixels, POINTS)
            .into_iter()
            .map(|(first, last, spread)| BandPoint {
                x: 0.5 * (first + last) as f64,
                low: spread.low,
                middle: spread.median,
                high: spread.high,
            })
            .collect();
        let low = points.iter().map(|p| p.low).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|p| p.high).fold(f64::NEG_INFINITY, f64::max);
        let unit = findings.settings.unit(label);
        // As short as it can be: the axis is no longer.
        let y = super::with_unit(&format!("d {name} / d flux"), format!("{unit} per flux").trim_start());
        let svg = band(
            &format!("the jacobian of {name}"),
            &Axis::linear("pixel", 0.0, pixels.len() as f64 - 1.0),
            &Axis::linear(y, low, high),
            &points,
        )?;
        let joined = pixels.len().div_ceil(points.len());
        let caption = if joined > 1 {
            format!(
                "{name}: median and middle 68 % over spectra; of {joined} neighbouring pixels, the median farthest from zero and the whole of \
                 their bands."
            )
        } else {
            format!("{name}: median and middle 68 % over spectra, pixel by pixel.")
        };
        found.push(figure(&svg, &caption));
    }
    if found.is_empty() {
        out.push_str(&paragraph("None of these rows has a Jacobian."));
    }
    out.push_str(&figures(&found));
    Ok(Some(out))
}
