//! How many values are of which size: counts in bins of equal ratio, over all rows, in one pass.
//!
//! A positive value `x` counts in bin `floor(64 log2 x)`: 1.1 % wide, so no range has to be known beforehand and the number of bins is
//! bounded by what a double can hold. For a plot neighbouring bins are put together.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bins of a factor of two.
const BINS_PER_OCTAVE: f64 = 64.0;

/// Counts of positive values in bins of equal ratio.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Histogram {
    counts: BTreeMap<i32, u64>,
    n: u64,
    zero: u64,
    smallest: Option<f64>,
    largest: Option<f64>,
}

/// One bar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bar {
    /// Its values are this or more.
    pub low: f64,
    /// Its values are less than this.
    pub high: f64,
    /// Number of values.
    pub count: u64,
}

/// Bars for a plot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bars {
    /// Next to each other, ascending.
    pub bars: Vec<Bar>,
    /// Positive values below the first.
    pub below: u64,
    /// Values above the last.
    pub above: u64,
}

impl Histogram {
    /// Counts a value; what is negative or not finite is not counted.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        self.n += 1;
        self.smallest = Some(self.smallest.map_or(value, |old| old.min(value)));
        self.largest = Some(self.largest.map_or(value, |old| old.max(value)));
        if value == 0.0 {
            self.zero += 1;
        } else {
            let bin = (value.log2() * BINS_PER_OCTAVE).floor() as i32;
            *self.counts.entry(bin).or_default() += 1;
        }
    }

    /// Number of values.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// How many of them are 0.
    pub fn zero(&self) -> u64 {
        self.zero
    }

    /// The smallest and the largest value.
    pub fn range(&self) -> Option<(f64, f64)> {
        self.smallest.zip(self.largest)
    }

    /// At most `max_bars` bars of equal ratio; `tail` of the values, such as 0.001, may lie outside on either side.
    pub fn bars(&self, max_bars: usize, tail: f64) -> Bars {
        let positive = self.n - self.zero;
        let allowed = (positive as f64 * tail).floor() as u64;
        let (first, below) = edge(self.counts.iter(), allowed);
        let (last, above) = edge(self.counts.iter().rev(), allowed);
        let (Some(first), Some(last)) = (first, last) else {
            return Bars {
                bars: Vec::new(),
                below: 0,
                above: 0,
            };
        };
        let width = (last.abs_diff(first) as usize + 1).div_ceil(max_bars.max(1)) as i32;
        let value = |bin: i32| (f64::from(bin) / BINS_PER_OCTAVE).exp2();
        let count = |bins: Range<i32>| self.counts.range(bins).map(|(_, count)| count).sum::<u64>();
        let bars = (first..=last)
            .step_by(width as usize)
            .map(|start| Bar {
                low: value(start),
                high: value(start + width),
                count: count(start..start + width),
            })
            .collect();
        // The last bar may reach beyond the last bin that had to be shown.
        let end = first + (last - first + width) / width * width;
        Bars {
            bars,
            below,
            above: above - count(last + 1..end),
        }
    }
}

/// The first bin with which more than `allowed` values are reached, and how many came before it.
fn edge<'a>(counts: impl Iterator<Item = (&'a i32, &'a u64)>, allowed: u64) -> (Option<i32>, u64) {
    let mut before = 0;
    for (&bin, &count) in counts {
        if before + count > allowed {
            return (Some(bin), before);
        }
        before += count;
    }
    (None, before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_counted_where_it_belongs() {
        let values: Vec<f64> = (1..=1000).map(|i| 0.01 * f64::from(i)).collect();
        let mut histogram = Histogram::default();
        for &value in values.iter().chain(&[0.0, -1.0, f64::NAN]) {
            histogram.add(value);
        }
        assert_eq!((histogram.n(), histogram.zero()), (1001, 1));
        assert_eq!(histogram.range(), Some((0.0, 10.0)));
        let bars = histogram.bars(30, 0.0);
        assert!(bars.bars.len() <= 30 && bars.below + bars.above == 0);
        for bar in &bars.bars {
            let inside = |v: &&f64| (bar.low..bar.high).contains(*v);
            assert_eq!(values.iter().filter(inside).count() as u64, bar.count);
        }
        let total: u64 = bars.bars.iter().map(|bar| bar.count).sum();
        assert_eq!(total, 1000);
    }

    #[test]
    fn outliers_do_not_squeeze_the_plot() {
        let mut histogram = Histogram::default();
        (0..10_000).for_each(|i| histogram.add(1.0 + 1e-4 * f64::from(i)));
        histogram.add(1e12);
        histogram.add(1e-12);
        let bars = histogram.bars(40, 0.001);
        assert!(bars.bars[0].low > 0.9 && bars.bars.last().unwrap().high < 2.1);
        let total: u64 = bars.bars.iter().map(|bar| bar.count).sum();
        assert_eq!(total + bars.below + bars.above, 10_002);
        assert!(bars.below >= 1 && bars.above >= 1);
        // What lies under the last bar is counted in it.
        for max_bars in 1..40 {
            let bars = histogram.bars(max_bars, 0.1);
            let end = bars.bars.last().unwrap().high;
            let beyond = (0..10_000).filter(|&i| 1.0 + 1e-4 * f64::from(i) >= end).count() as u64;
            assert_eq!(bars.above, beyond + 1, "{max_bars} bars");
        }
    }

    #[test]
    fn one_value_is_one_bar_and_none_is_none() {
        let mut histogram = Histogram::default();
        assert!(histogram.bars(40, 0.001).bars.is_empty());
        histogram.add(3.0);
        let bars = histogram.bars(40, 0.001).bars;
        assert_eq!(bars.len(), 1);
        assert!(bars[0].low <= 3.0 && 3.0 < bars[0].high);
    }
}
