//! The error bars: how large, of what they are made, and on what they depend.

use crate::ReportError;
use crate::findings::Findings;
use crate::html::{Cell, escape, figure, figures, paragraph, table};
use crate::numbers::{count, percent, significant};
use crate::plot::{Axis, BandPoint, band, bars};
use crate::predictions::Predictions;
use crate::quantiles::{BinnedSpread, Spread, binned, spread};

/// Bars of a histogram, at most.
const BARS: usize = 40;
/// Share of the values that a histogram may leave out on either side.
const TAIL: f64 = 0.001;
/// Points of a line, at most.
const POINTS: usize = 24;
/// Spectra behind a point, at least.
const MIN_POINTS: usize = 10;

/// The section.
pub(crate) fn errors(findings: &Findings) -> Result<String, ReportError> {
    let predictions = &findings.predictions;
    let (sampled, one_in) = predictions.sampled();
    if sampled == 0 {
        return Ok(paragraph("No spectrum has an error bar."));
    }
    let mut out = paragraph(
        "An error bar is the root of a variance with three parts: photon noise carried through the network (flux), what the training data \
         leave open of the network's weights (weights), and what held-out spectra show beyond both (intrinsic).",
    );
    if one_in > 1 {
        out.push_str(&paragraph(&format!(
            "Quantiles and shares are those of one in {one_in} spectra with an error bar, {} in all; histograms and ranges are over all.",
            count(sampled)
        )));
    }
    let labels: Vec<(usize, &str, String)> = findings
        .settings
        .network
        .labels
        .iter()
        .enumerate()
        .map(|(label, name)| {
            let unit = findings.settings.unit(label);
            (label, name.as_str(), super::with_unit(&format!("e_{name}"), unit))
        })
        .collect();
    out.push_str("<h3>How large</h3>\n");
    let sizes: Vec<Vec<Cell>> = labels
        .iter()
        .map(|(label, _, e)| size(predictions, *label, e))
        .collect();
    out.push_str(&table(
        &["error bar", "median", "16 %", "84 %", "smallest", "largest", "spectra"],
        &sizes,
    ));
    out.push_str("<h3>Made of</h3>\n");
    let parts: Vec<Vec<Cell>> = labels
        .iter()
        .map(|(label, name, _)| parts(predictions, *label, name))
        .collect();
    out.push_str(&table(&["label", "", "flux", "weights", "intrinsic"], &parts));
    out.push_str(
        "<p class=\"small\">Median share of the variance over spectra, in brackets the middle 68 %. Medians need not add up to 100 %. \
         <span class=\"key flux\"></span> flux <span class=\"key weights\"></span> weights <span class=\"key intrinsic\"></span> intrinsic</p>\n",
    );
    for (label, name, e) in &labels {
        out.push_str(&format!("<h3>{}</h3>\n", escape(name)));
        out.push_str(&figures(&plots(findings, *label, name, e)?));
    }
    Ok(out)
}

fn size(predictions: &Predictions, label: usize, e: &str) -> Vec<Cell> {
    let histogram = &predictions.errors[label];
    let Spread { low, median, high } = spread(predictions.errors(label)).unwrap_or(Spread {
        low: f64::NAN,
        median: f64::NAN,
        high: f64::NAN,
    });
    let (smallest, largest) = histogram.range().unwrap_or((f64::NAN, f64::NAN));
    let mut row = vec![Cell::text(e)];
    row.extend([median, low, high, smallest, largest].map(|value| Cell::Number(significant(value, 3))));
    row.push(Cell::Number(count(histogram.n())));
    row
}

fn parts(predictions: &Predictions, label: usize, name: &str) -> Vec<Cell> {
    let shares = [0, 1, 2].map(|part| spread(predictions.shares(label, part)));
    let medians = shares.map(|share| share.map_or(0.0, |share| share.median));
    let mut row = vec![Cell::text(name), Cell::Html(stacked(medians))];
    row.extend(shares.map(|share| {
        let text = share.map_or_else(
            || "–".to_owned(),
            |Spread { low, median, high }| {
                let within = |share: f64| percent(share).trim_end_matches(" %").to_owned();
                format!("{} ({}–{})", percent(median), within(low), within(high))
            },
        );
        Cell::Number(text)
    }));
    row
}

/// A bar of three lengths.
fn stacked(shares: [f64; 3]) -> String {
    let total: f64 = shares.iter().sum();
    if total <= 0.0 {
        return String::new();
    }
    let mut out = String::from("<svg class=\"shares\" viewBox=\"0 0 160 14\" role=\"img\" aria-label=\"shares\">");
    let mut start = 0.0;
    for (class, share) in ["flux", "weights", "intrinsic"].into_iter().zip(shares) {
        let width = 160.0 * share / total;
        out.push_str(&format!(
            "<rect class=\"{class}\" x=\"{start:.1}\" y=\"0\" width=\"{width:.1}\" height=\"14\"/>"
        ));
        start += width;
    }
    out + "</svg>"
}

fn plots(findings: &Findings, label: usize, name: &str, e: &str) -> Result<Vec<String>, ReportError> {
    let predictions = &findings.predictions;
    let mut found = Vec::new();
    found.extend(histogram(predictions, label, name, e)?);
    let against_label = predictions.values(label).zip(predictions.errors(label));
    let points = binned(against_label, POINTS, MIN_POINTS);
    let x = super::with_unit(name, findings.settings.unit(label));
    found.extend(against(
        &points,
        e,
        &x,
        &format!("the error of {name} against its predicted value"),
    )?);
    let against_pixels = predictions.n_pix_good().zip(predictions.errors(label));
    let points = binned(against_pixels, POINTS, MIN_POINTS);
    let what = format!("the error of {name} against the number of good pixels");
    found.extend(against(&points, e, "good pixels", &what)?);
    Ok(found)
}

fn histogram(predictions: &Predictions, label: usize, name: &str, e: &str) -> Result<Option<String>, ReportError> {
    let histogram = &predictions.errors[label];
    let shown = histogram.bars(BARS, TAIL);
    let (Some(first), Some(last)) = (shown.bars.first(), shown.bars.last()) else {
        return Ok(None);
    };
    let most = shown.bars.iter().map(|bar| bar.count).max().unwrap_or(1);
    let x = Axis::log(e, first.low, last.high);
    let y = Axis::from_zero("spectra", most as f64);
    let what = format!("how often an error of {name} has which size");
    let svg = bars(&what, &x, &y, &shown.bars)?;
    let mut caption = format!("Error bars of {name}: how many spectra have which.");
    let outside = [
        (shown.below, "smaller"),
        (shown.above, "larger"),
        (histogram.zero(), "zero"),
    ];
    let outside: Vec<String> = outside
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, which)| format!("{} {which}", count(*n)))
        .collect();
    if !outside.is_empty() {
        caption.push_str(&format!(" Not shown: {}.", outside.join(", ")));
    }
    Ok(Some(figure(&svg, &caption)))
}

/// A plot of binned errors; none where there is but one bin.
fn against(points: &[BinnedSpread], e: &str, x: &str, what: &str) -> Result<Option<String>, ReportError> {
    let [first, .., last] = points else {
        return Ok(None);
    };
    let lowest = points
        .iter()
        .map(|point| point.spread.low)
        .fold(f64::INFINITY, f64::min);
    let highest = points.iter().map(|point| point.spread.high).fold(0.0, f64::max);
    let lines: Vec<BandPoint> = points
        .iter()
        .map(|point| BandPoint {
            x: point.x,
            low: point.spread.low,
            middle: point.spread.median,
            high: point.spread.high,
        })
        .collect();
    let svg = band(
        what,
        &Axis::linear(x, first.x, last.x),
        &Axis::positive(e, lowest, highest),
        &lines,
    )?;
    let caption = format!(
        "T{}: median and middle 68 % of {}.",
        what.trim_start_matches('t'),
        groups(points)
    );
    Ok(Some(figure(&svg, &caption)))
}

/// How many spectra are behind the points of a line: not as many behind each where many share an abscissa.
fn groups(points: &[BinnedSpread]) -> String {
    let sizes = || points.iter().map(|point| point.n as u64);
    let (fewest, most) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
    if fewest == most {
        return format!("{} groups of equally many spectra", points.len());
    }
    format!(
        "{} groups of {} to {} spectra",
        points.len(),
        count(fewest),
        count(most)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_many_that_share_an_abscissa_are_not_called_equal() {
        let of = |x: fn(u32) -> u32| groups(&binned((0..240).map(|i| (f64::from(x(i)), 1.0)), 24, 10));
        assert_eq!(of(|i| i), "24 groups of equally many spectra");
        // Nine in ten have all their pixels.
        assert_eq!(of(|i| i.min(24)), "3 groups of 10 to 220 spectra");
    }
}
