//! Plots as SVG text: bars, and a line with a band.
//!
//! They are drawn at twice the size of the page, where lines lie on whole pixels, and shrink with it.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use crate::ReportError;
use crate::histogram::Bar;
use crate::ticks::{Scale, label};

const SIZE: (u32, u32) = (960, 600);
const FONT: i32 = 34;
const INK: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(225, 225, 225);
const LINE: RGBColor = RGBColor(31, 96, 160);

/// One axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    /// What it says, with the unit.
    pub label: String,
    /// Its least value.
    pub low: f64,
    /// Its largest value.
    pub high: f64,
    /// How values lie on it.
    pub scale: Scale,
}

/// A point of a line, with the band about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BandPoint {
    /// Abscissa.
    pub x: f64,
    /// The band's lower edge.
    pub low: f64,
    /// The line.
    pub middle: f64,
    /// The band's upper edge.
    pub high: f64,
}

impl Axis {
    /// From `low` to `high`, with some room.
    pub fn linear(label: impl Into<String>, low: f64, high: f64) -> Self {
        let room = if high > low {
            0.04 * (high - low)
        } else {
            0.5 * low.abs().max(1.0)
        };
        Self {
            label: label.into(),
            low: low - room,
            high: high + room,
            scale: Scale::Linear,
        }
    }

    /// From 0 to `high`, with some room.
    pub fn from_zero(label: impl Into<String>, high: f64) -> Self {
        Self {
            label: label.into(),
            low: 0.0,
            high: if high > 0.0 { 1.06 * high } else { 1.0 },
            scale: Scale::Linear,
        }
    }

    /// From `low` to `high`, both positive, by ratios.
    pub fn log(label: impl Into<String>, low: f64, high: f64) -> Self {
        let room = (high / low).powf(0.04).max(1.01);
        Self {
            label: label.into(),
            low: low / room,
            high: high * room,
            scale: Scale::Log,
        }
    }

    /// For positive values: from 0 where they are of one size, by ratios where they are not.
    pub fn positive(label: impl Into<String>, low: f64, high: f64) -> Self {
        if low > 0.0 && high > 10.0 * low {
            Self::log(label, low, high)
        } else {
            Self::from_zero(label, high)
        }
    }

    fn place(&self, value: f64) -> f64 {
        self.scale.place(value.clamp(self.low, self.high))
    }

    fn ticks(&self) -> Vec<f64> {
        self.scale.ticks(self.low, self.high)
    }

    fn places(&self) -> Places {
        Places {
            low: self.scale.place(self.low),
            high: self.scale.place(self.high),
            ticks: self.ticks().into_iter().map(|tick| self.scale.place(tick)).collect(),
        }
    }
}

/// The places of an axis, with the ticks where this program wants them.
struct Places {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Ranged for Places {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (place - self.low) / (self.high - self.low);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            Vec::new()
        } else {
            self.ticks.clone()
        }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// A bar for every bin.
pub(crate) fn bars(what: &str, x: &Axis, y: &Axis, bars: &[Bar]) -> Result<String, ReportError> {
    draw(what, x, y, |chart| {
        chart.draw_series(bars.iter().filter(|bar| bar.count > 0).map(|bar| {
            let corners = [(x.place(bar.low), 0.0), (x.place(bar.high), bar.count as f64)];
            Rectangle::new(corners, LINE.mix(0.75).filled())
        }))?;
        Ok(())
    })
}

/// A line through the points and the band about it.
pub(crate) fn band(what: &str, x: &Axis, y: &Axis, points: &[BandPoint]) -> Result<String, ReportError> {
    draw(what, x, y, |chart| {
        let lower = points.iter().map(|p| (x.place(p.x), y.place(p.low)));
        let upper = points.iter().rev().map(|p| (x.place(p.x), y.place(p.high)));
        let outline: Vec<(f64, f64)> = lower.chain(upper).collect();
        let middle = points.iter().map(|p| (x.place(p.x), y.place(p.middle)));
        chart.draw_series([Polygon::new(outline, LINE.mix(0.25))])?;
        chart.draw_series(LineSeries::new(middle, LINE.stroke_width(3)))?;
        Ok(())
    })
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Places, Places>>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(
    what: &str,
    x: &Axis,
    y: &Axis,
    series: impl FnOnce(&mut Chart<'_, '_>) -> Drawn,
) -> Result<String, ReportError> {
    let mut svg = String::new();
    framed(&mut svg, x, y, series).map_err(|error| ReportError::Plot {
        plot: what.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(svg)
}

fn framed(svg: &mut String, x: &Axis, y: &Axis, series: impl FnOnce(&mut Chart<'_, '_>) -> Drawn) -> Drawn {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .margin_right(36)
        .x_label_area_size(100)
        .y_label_area_size(150)
        .build_cartesian_2d(x.places(), y.places())?;
    let (x_ticks, y_ticks) = (x.ticks(), y.ticks());
    let font = ("sans-serif", FONT).into_font().color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .axis_style(INK.stroke_width(2))
        .label_style(font.clone())
        .axis_desc_style(font)
        .x_desc(x.label.as_str())
        .y_desc(y.label.as_str())
        .x_label_formatter(&|place| label(x.scale.value(*place), &x_ticks))
        .y_label_formatter(&|place| label(y.scale.value(*place), &y_ticks))
        .draw()?;
    series(&mut chart)?;
    drop(chart);
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_svg_with_escaped_text() {
        let x = Axis::log("e_<teff> (K)", 10.0, 1000.0);
        let y = Axis::from_zero("spectra", 5.0);
        let bins = [Bar {
            low: 20.0,
            high: 30.0,
            count: 5,
        }];
        let svg = bars("x", &x, &y, &bins).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("e_&lt;teff&gt; (K)") && !svg.contains("NaN"));
        assert_eq!(svg, bars("x", &x, &y, &bins).unwrap());
    }

    #[test]
    fn a_flat_line_has_an_axis_too() {
        let points: Vec<BandPoint> = (0..3)
            .map(|i| BandPoint {
                x: f64::from(i),
                low: 2.0,
                middle: 2.0,
                high: 2.0,
            })
            .collect();
        let svg = band(
            "x",
            &Axis::linear("pixel", 0.0, 2.0),
            &Axis::linear("J", 2.0, 2.0),
            &points,
        )
        .unwrap();
        assert!(svg.contains("<polyline") && svg.contains("<polygon") && !svg.contains("NaN"));
    }
}
