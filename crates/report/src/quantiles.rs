//! Medians and the band that holds the middle 68 %, of a set and along an abscissa.

/// The 16 %, 50 % and 84 % quantiles: for a normal distribution mean - sigma, mean and mean + sigma.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spread {
    /// 16 % lie below.
    pub low: f64,
    /// Half lie below.
    pub median: f64,
    /// 84 % lie below.
    pub high: f64,
}

/// The spread of the ordinates of neighbouring points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BinnedSpread {
    /// Median abscissa of the bin.
    pub x: f64,
    /// Points in it.
    pub n: usize,
    /// Of the ordinates.
    pub spread: Spread,
}

/// A quantile of ascending values, between two of them on the straight line; `None` of none.
pub(crate) fn quantile(ascending: &[f64], share: f64) -> Option<f64> {
    let last = ascending.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    let fraction = place - below as f64;
    Some(ascending[below] + fraction * (ascending[above] - ascending[below]))
}

/// The spread of the finite values; `None` where there are none.
pub(crate) fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_unstable_by(f64::total_cmp);
    Some(Spread {
        low: quantile(&values, 0.16)?,
        median: quantile(&values, 0.5)?,
        high: quantile(&values, 0.84)?,
    })
}

/// The spread of `y` in bins of `x` that hold as many points each, at most `bins` of them and none with fewer than `min_points` (but for
/// one bin of all points). Points of one abscissa are in one bin.
pub(crate) fn binned(points: impl Iterator<Item = (f64, f64)>, bins: usize, min_points: usize) -> Vec<BinnedSpread> {
    let mut points: Vec<(f64, f64)> = points.filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let size = points.len().div_ceil(bins.max(1)).max(min_points).max(1);
    let mut found = Vec::new();
    let mut start = 0;
    while start < points.len() {
        let mut end = (start + size).min(points.len());
        while end < points.len() && points[end].0 == points[end - 1].0 {
            end += 1;
        }
        // No bin of its own for a few points at the end.
        if points.len() - end < min_points {
            end = points.len();
        }
        let bin = &points[start..end];
        let abscissae: Vec<f64> = bin.iter().map(|point| point.0).collect();
        let ordinates = spread(bin.iter().map(|point| point.1));
        if let (Some(x), Some(spread)) = (quantile(&abscissae, 0.5), ordinates) {
            found.push(BinnedSpread {
                x,
                n: bin.len(),
                spread,
            });
        }
        start = end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_on_straight_lines() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7.0], 0.16), Some(7.0));
        assert_eq!(quantile(&[1.0, 2.0, 4.0, 8.0], 0.5), Some(3.0));
        let spread = spread((0..=100).rev().map(f64::from).chain([f64::NAN])).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (16.0, 50.0, 84.0));
    }

    #[test]
    fn bins_hold_equally_many_points() {
        let points = (0..100).map(|i| (f64::from(99 - i), f64::from((99 - i) / 10)));
        let found = binned(points, 10, 5);
        assert_eq!(found.len(), 10);
        for (bin, found) in found.iter().enumerate() {
            assert_eq!((found.x, found.n), (10.0 * bin as f64 + 4.5, 10));
            assert_eq!(found.spread.median, bin as f64);
        }
    }

    #[test]
    fn points_of_one_abscissa_stay_together() {
        let points = (0..100).map(|i| (if i < 90 { 1.0 } else { 2.0 }, f64::from(i)));
        let found = binned(points, 10, 5);
        assert_eq!(found.iter().map(|bin| bin.x).collect::<Vec<_>>(), [1.0, 2.0]);
        // One point that is left behind such a bin goes with it.
        let crowded = [(3900.0, 14), (3950.0, 20), (4000.0, 300), (4001.0, 1)];
        let points = crowded
            .into_iter()
            .flat_map(|(x, n)| (0..n).map(move |i| (x, f64::from(i))));
        let found = binned(points, 24, 10);
        assert_eq!(found.iter().map(|bin| bin.n).collect::<Vec<_>>(), [14, 20, 301]);
        let few = binned((0..3).map(|i| (f64::from(i), 1.0)), 10, 5);
        assert_eq!(few.len(), 1);
    }
}
