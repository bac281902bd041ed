//! Where an axis has its ticks, and what they say.

use crate::numbers;

/// How a value becomes a place on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// The value itself.
    Linear,
    /// Its decimal logarithm; values are positive.
    Log,
}

impl Scale {
    /// Place of a value.
    pub fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.log10(),
        }
    }

    /// Value of a place.
    pub fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Log => 10_f64.powf(place),
        }
    }

    /// About five values in `low..=high` with round numbers, ascending.
    pub fn ticks(self, low: f64, high: f64) -> Vec<f64> {
        match self {
            Self::Linear => linear(low, high),
            Self::Log => log(low, high),
        }
    }
}

/// A tick's text.
pub(crate) fn label(value: f64, ticks: &[f64]) -> String {
    let largest = ticks.iter().fold(0.0_f64, |max, tick| max.max(tick.abs()));
    let step = ticks
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .fold(f64::INFINITY, f64::min);
    if !step.is_finite() {
        return numbers::significant(value, 2);
    }
    if !(1e-3..1e6).contains(&largest) {
        return exponential(value, ticks);
    }
    // As many decimals as the closest ticks need to differ, from 0 too.
    let from_zero = ticks.iter().map(|tick| tick.abs()).filter(|tick| *tick > 1e-9 * step);
    let closest = from_zero.fold(step, f64::min);
    let decimals = (-(closest * 1.000_001).log10().floor()).max(0.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// With an exponent, and as many digits as a tick needs to differ from the closest other one: at least two.
fn exponential(value: f64, ticks: &[f64]) -> String {
    // The tick itself may be off by rounding.
    let apart = ticks
        .iter()
        .map(|tick| (tick - value).abs())
        .filter(|apart| *apart > 1e-9 * value.abs())
        .fold(f64::INFINITY, f64::min);
    if value == 0.0 || !apart.is_finite() {
        return numbers::significant(value, 2);
    }
    let decade = |x: f64| (x * 1.000_001).log10().floor() as i32;
    let digits = 1 + decade(value.abs()) - decade(apart);
    numbers::significant(value, digits.max(2) as usize)
}

fn linear(low: f64, high: f64) -> Vec<f64> {
    let span = high - low;
    if !(span > 0.0 && span.is_finite()) {
        return vec![low];
    }
    let raw = span / 5.0;
    let decade = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|m| m * decade)
        .into_iter()
        .find(|step| *step >= raw)
        .unwrap_or(raw);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

fn log(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let decades = (high / low).log10();
    let inside = |value: &f64| (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(value);
    let multiples: &[f64] = if decades > 3.0 {
        &[1.0]
    } else if decades > 1.5 {
        &[1.0, 3.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let every = ((last - first) / 6).max(1) as usize;
    let ticks: Vec<f64> = (first..=last)
        .step_by(if multiples.len() == 1 { every } else { 1 })
        .flat_map(|exponent| multiples.iter().map(move |m| m * 10_f64.powi(exponent)))
        .filter(inside)
        .collect();
    // Less than a factor of two or so: as a linear axis.
    if ticks.len() < 3 {
        return linear(low, high).into_iter().filter(|tick| *tick > 0.0).collect();
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, low: f64, high: f64) -> Vec<String> {
        let ticks = scale.ticks(low, high);
        ticks.iter().map(|&tick| label(tick, &ticks)).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(Scale::Linear, 0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(labels(Scale::Linear, 3510.0, 7490.0), ["4000", "5000", "6000", "7000"]);
        assert_eq!(
            labels(Scale::Linear, -0.02, 0.02),
            ["-0.02", "-0.01", "0", "0.01", "0.02"]
        );
        assert_eq!(labels(Scale::Log, 0.05, 1.2), ["0.05", "0.1", "0.2", "0.5", "1"]);
        assert_eq!(
            labels(Scale::Log, 1e-13, 1e-9),
            ["1.0e-13", "1.0e-12", "1.0e-11", "1.0e-10", "1.0e-9"]
        );
        assert_eq!(
            labels(Scale::Linear, 1.21e-4, 1.29e-4),
            ["1.22e-4", "1.24e-4", "1.26e-4", "1.28e-4"]
        );
        assert_eq!(
            labels(Scale::Linear, 2_000_000.0, 2_000_040.0),
            ["2.00000e6", "2.00001e6", "2.00002e6", "2.00003e6", "2.00004e6"]
        );
        assert_eq!(
            labels(Scale::Linear, -2e-4, 2e-4),
            ["-2.0e-4", "-1.0e-4", "0", "1.0e-4", "2.0e-4"]
        );
        assert_eq!(labels(Scale::Log, 1e-8, 1e5)[..2], ["0.00000001", "0.000001"]);
        assert_eq!(labels(Scale::Log, 0.5, 0.6).len(), 6);
        assert_eq!(labels(Scale::Linear, 2.0, 2.0), ["2.0"]);
    }
}
