//! How the standard deviations of one posterior compare with those of another, over stars and labels.

use serde::{Deserialize, Serialize};

/// Quantiles of `sigma / sigma_exact` over stars and labels, not a number where one of them is none, and whether both put the stars in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SigmaRatio {
    /// The middle one.
    #[serde(with = "crate::or_null")]
    pub median: f64,
    /// 5 % are smaller.
    #[serde(with = "crate::or_null")]
    pub p05: f64,
    /// 5 % are larger.
    #[serde(with = "crate::or_null")]
    pub p95: f64,
    /// Spearman's rank correlation over stars, of the label where it is lowest; `None` below three stars, or where all are the same.
    pub spearman: Option<f64>,
}

impl SigmaRatio {
    /// From covariances of the labels, `[n, K, K]` each. `None` where there is no star with an exact variance above 0.
    #[must_use]
    pub fn of(found: &[f64], exact: &[f64], n_labels: usize) -> Option<Self> {
        let sigma = |covariance: &[f64], label: usize| -> Vec<f64> {
            let stars = covariance.chunks_exact((n_labels * n_labels).max(1));
            let sigma = |variance: f64| if variance < 0.0 { 0.0 } else { variance.sqrt() };
            stars.map(|star| sigma(star[label * (n_labels + 1)])).collect()
        };
        let mut ratios = Vec::with_capacity(exact.len() / n_labels.max(1));
        let mut spearman: Option<f64> = None;
        for label in 0..n_labels {
            let (found, exact) = (sigma(found, label), sigma(exact, label));
            let above_zero = found
                .iter()
                .zip(&exact)
                .filter(|(_, exact)| **exact > 0.0 || exact.is_nan());
            ratios.extend(above_zero.map(|(found, exact)| found / exact));
            if let Some(own) = rank_correlation(&found, &exact) {
                spearman = Some(spearman.map_or(own, |lowest| lowest.min(own)));
            }
        }
        ratios.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&ratios, 0.5)?,
            p05: quantile(&ratios, 0.05)?,
            p95: quantile(&ratios, 0.95)?,
            spearman,
        })
    }
}

/// Of ascending values, between neighbours by their distance (numpy's `linear`).
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    // Those that are no numbers are at the ends.
    if sorted.first()?.is_nan() || sorted.last()?.is_nan() {
        return Some(f64::NAN);
    }
    Some(below + (above - below) * at.fract())
}

/// Spearman's: Pearson's correlation of the ranks, equal values sharing the mean of theirs.
fn rank_correlation(one: &[f64], other: &[f64]) -> Option<f64> {
    if one.len() < 3 {
        return None;
    }
    let (one, other) = (ranks(one), ranks(other));
    let middle = (one.len() - 1) as f64 / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| (x - middle) * (y - middle)).sum() };
    let scale = (product(&one, &one) * product(&other, &other)).sqrt();
    (scale > 0.0).then(|| product(&one, &other) / scale)
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let same = order[first..]
            .iter()
            .take_while(|&&at| values[at].total_cmp(&values[order[first]]).is_eq())
            .count();
        for &at in &order[first..first + same] {
            ranks[at] = first as f64 + (same - 1) as f64 / 2.0;
        }
        first += same;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_ranks_by_hand() {
        // Two labels of four stars; variances on the diagonals, the rest is not read.
        let star = |a: f64, b: f64| [a * a, 9.0, 9.0, b * b];
        let exact: Vec<f64> = [(1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (4.0, 2.0)]
            .into_iter()
            .flat_map(|(a, b)| star(a, b))
            .collect();
        let found: Vec<f64> = [(0.5, 2.0), (1.0, 2.0), (6.0, 2.0), (4.0, 2.0)]
            .into_iter()
            .flat_map(|(a, b)| star(a, b))
            .collect();
        let ratio = SigmaRatio::of(&found, &exact, 2).unwrap();
        // Ratios: 0.5 0.5 1 1 1 1 1 2.
        assert_eq!((ratio.median, ratio.p05), (1.0, 0.5));
        assert!((ratio.p95 - (1.0 + 0.65)).abs() < 1e-12, "{ratio:?}");
        // Ranks 0 1 3 2 against 0 1 2 3: 1 - 6 * 2 / (4 * 15); the second label does not vary.
        assert!((ratio.spearman.unwrap() - 0.8).abs() < 1e-12);
        let same = SigmaRatio::of(&exact, &exact, 2).unwrap();
        assert_eq!(
            (same.median, same.p05, same.p95, same.spearman),
            (1.0, 1.0, 1.0, Some(1.0))
        );
    }

    /// The tails are told apart from what is beside them, and the label whose order agrees least counts.
    #[test]
    fn tails_and_the_worst_label_by_hand() {
        let exact = [1.0; 21];
        let found: Vec<f64> = (0..21).map(|star| f64::from((star * 8) % 21 + 1).powi(2)).collect();
        let ratio = SigmaRatio::of(&found, &exact, 1).unwrap();
        assert_eq!((ratio.median, ratio.p05, ratio.p95), (11.0, 2.0, 20.0));
        let star = |a: f64, b: f64| [a, 0.0, 0.0, b];
        let exact = [star(1.0, 1.0), star(2.0, 2.0), star(3.0, 3.0)].concat();
        for (found, worst) in [
            ([star(4.0, 9.0), star(5.0, 8.0), star(6.0, 7.0)], -1.0),
            ([star(6.0, 7.0), star(5.0, 8.0), star(4.0, 9.0)], -1.0),
            ([star(4.0, 7.0), star(5.0, 9.0), star(6.0, 8.0)], 0.5),
        ] {
            assert_eq!(
                SigmaRatio::of(&found.concat(), &exact, 2).unwrap().spearman,
                Some(worst)
            );
        }
    }

    #[test]
    fn equal_values_share_their_ranks() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [2.5, 0.0, 2.5, 1.0]);
        // scipy.stats.spearmanr([3, 1, 3, 2], [1, 2, 4, 3])
        let found = rank_correlation(&[3.0, 1.0, 3.0, 2.0], &[1.0, 2.0, 4.0, 3.0]).unwrap();
        assert!((found - 0.105_409_255_338_946).abs() < 1e-12, "{found}");
    }

    #[test]
    fn nothing_to_compare_is_no_ratio() {
        for (found, exact) in [([1.0, f64::NAN], [1.0, 4.0]), ([1.0, 4.0], [f64::NAN, 4.0])] {
            let ratio = SigmaRatio::of(&found, &exact, 1).unwrap();
            assert!(ratio.median.is_nan() && ratio.p05.is_nan() && ratio.p95.is_nan());
            let read: SigmaRatio = serde_json::from_value(serde_json::to_value(ratio).unwrap()).unwrap();
            assert!(read.median.is_nan());
        }
        assert_eq!(SigmaRatio::of(&[], &[], 3), None);
        assert_eq!(SigmaRatio::of(&[0.0], &[0.0], 1), None);
        assert_eq!(SigmaRatio::of(&[1.0, 4.0], &[1.0, 1.0], 1).unwrap().spearman, None);
    }
}
