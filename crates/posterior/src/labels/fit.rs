//! Does the network know these labels at all? Columns in another order than its outputs, other units, a missing normalisation and missing
//! values that are written as numbers all leave error bars that look like error bars; the residuals of held-out stars tell.

use serde::{Deserialize, Serialize};

use crate::PosteriorError;
use crate::labels::stray::{FEWEST, LabelEnds, StrayLabel};
use crate::shape_checks::{check_batch, check_merge};

/// A mean residual of so many times the residuals' scatter about it is no property of stars.
const FAR: f64 = 2.0;

/// What the residuals of held-out stars say of one label, label units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelFit {
    /// Number of stars.
    pub n_spectra: u64,
    /// Mean residual: the bias.
    pub mean_residual: f64,
    /// Standard deviation of the residuals about their mean.
    pub scatter: f64,
    /// `1 - sum r^2 / sum (label - mean)^2`: below 0 the network is worse than the labels' mean. `None` where all labels are equal.
    pub r_squared: Option<f64>,
    /// A value far from all others: missing labels look like that.
    pub stray: Option<StrayLabel>,
    /// The label that the network's output follows more closely than its own, if there is one.
    pub follows: Option<usize>,
}

impl LabelFit {
    /// Of each label, from `labels` and `residuals = label - prediction`, `[n, K]` each; stars with a value that is not finite are left out.
    /// None over fewer than ten stars.
    ///
    /// # Errors
    /// If the sizes do not agree.
    pub fn of_labels(labels: &[f64], residuals: &[f64], n_labels: usize) -> Result<Vec<Self>, PosteriorError> {
        check_batch("residuals", residuals, n_labels)?;
        check_merge("labels of held-out stars", residuals.len(), labels.len())?;
        let k = n_labels.max(1);
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        let stars: Vec<(&[f64], &[f64])> = labels
            .chunks_exact(k)
            .zip(residuals.chunks_exact(k))
            .filter(|(labels, residuals)| finite(labels) && finite(residuals))
            .collect();
        if (stars.len() as u64) < FEWEST {
            return Ok(Vec::new());
        }
        let column = |i: usize, of: fn(&[f64], &[f64], usize) -> f64| -> Vec<f64> {
            stars
                .iter()
                .map(|(labels, residuals)| of(labels, residuals, i))
                .collect()
        };
        let columns = |of| -> Vec<Vec<f64>> { (0..k).map(|i| column(i, of)).collect() };
        let labels = columns(|labels, _, i| labels[i]);
        let residuals = columns(|_, residuals, i| residuals[i]);
        let predicted = columns(|labels, residuals, i| labels[i] - residuals[i]);
        let one = |i: usize| {
            let (mean, scatter) = mean_and_deviation(&residuals[i]);
            let (_, spread) = mean_and_deviation(&labels[i]);
            let square: f64 = residuals[i].iter().map(|r| r * r).sum();
            let n = stars.len() as f64;
            Self {
                n_spectra: stars.len() as u64,
                mean_residual: mean,
                scatter,
                // Of equal labels the mean, summed, need not be their value.
                r_squared: (labels[i].iter().any(|label| *label != labels[i][0]))
                    .then(|| 1.0 - square / (spread * spread * n)),
                stray: LabelEnds::of(labels[i].iter().copied()).stray(),
                follows: followed(&predicted[i], &labels, i),
            }
        };
        Ok((0..k).map(one).collect())
    }

    /// Whether the network is worse than the labels' mean, or off by more than its own scatter.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.r_squared.is_some_and(|r_squared| r_squared < 0.0) || self.mean_residual.abs() > FAR * self.scatter
    }
}

/// The mean, and the standard deviation about it.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (square / n).sqrt())
}

/// The label with the highest correlation with an output, where that is another one than its own by a clear margin.
fn followed(predicted: &[f64], labels: &[Vec<f64>], own: usize) -> Option<usize> {
    let correlations: Vec<f64> = labels.iter().map(|label| correlation(predicted, label)).collect();
    let best = (0..labels.len()).max_by(|&a, &b| correlations[a].total_cmp(&correlations[b]))?;
    (correlations[best] > 0.5 && correlations[best] > correlations[own] + 0.1).then_some(best)
}

/// Pearson's; 0 where one of the two does not vary.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let ((mean_a, sigma_a), (mean_b, sigma_b)) = (mean_and_deviation(a), mean_and_deviation(b));
    let products = a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b));
    let correlation = products.sum::<f64>() / (a.len() as f64 * sigma_a * sigma_b);
    if correlation.is_finite() { correlation } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brute_force::Numbers;

    /// Labels about 5000 and about 2, and residuals of a network that knows them to a tenth of their spread.
    fn stars(n: usize) -> (Vec<f64>, Vec<f64>) {
        let mut numbers = Numbers::new(5);
        (0..n)
            .flat_map(|_| {
                [(5000.0, 500.0), (2.0, 1.0)].map(|(mean, spread)| {
                    let label = mean + spread * numbers.normal();
                    (label, 0.1 * spread * numbers.normal())
                })
            })
            .unzip()
    }

    fn of(labels: &[f64], residuals: &[f64]) -> Vec<LabelFit> {
        LabelFit::of_labels(labels, residuals, 2).unwrap()
    }

    /// 30 labels of -0.1 have a sum whose thirtieth part is not -0.1.
    #[test]
    fn equal_labels_have_no_r_squared() {
        for (label, n) in [(-0.1, 30), (4.44, 200), (0.3, 10)] {
            let fit = &LabelFit::of_labels(&vec![label; n], &vec![0.01; n], 1).unwrap()[0];
            assert_eq!(fit.r_squared, None, "{n} times {label}");
        }
    }

    #[test]
    fn numbers_by_hand() {
        // Residuals 1 and 3 in turn, labels 0 and 10: mean 2 and scatter 1; 1 - 5 / 25.
        let labels: Vec<f64> = (0..10).map(|i| if i % 2 == 0 { 0.0 } else { 10.0 }).collect();
        let residuals: Vec<f64> = (0..10).map(|i| if i % 2 == 0 { 1.0 } else { 3.0 }).collect();
        let fit = &LabelFit::of_labels(&labels, &residuals, 1).unwrap()[0];
        assert_eq!((fit.n_spectra, fit.mean_residual, fit.scatter), (10, 2.0, 1.0));
        assert_eq!((fit.r_squared, fit.stray, fit.follows), (Some(0.8), None, None));
        assert!(!fit.is_doubtful());
        assert!(
            LabelFit::of_labels(&labels[1..], &residuals[1..], 1)
                .unwrap()
                .is_empty()
        );
        assert!(LabelFit::of_labels(&labels[1..], &residuals, 1).is_err());
    }

    #[test]
    fn a_good_network_is_not_doubted() {
        let (labels, residuals) = stars(200);
        for fit in of(&labels, &residuals) {
            assert!((fit.r_squared.unwrap() - 0.99).abs() < 0.005, "{fit:?}");
            assert!(
                !fit.is_doubtful() && fit.stray.is_none() && fit.follows.is_none(),
                "{fit:?}"
            );
        }
    }

    #[test]
    fn columns_in_another_order_and_units_are_seen() {
        let (labels, residuals) = stars(200);
        let predicted: Vec<f64> = labels.iter().zip(&residuals).map(|(l, r)| l - r).collect();
        let against = |labels: &[f64]| {
            let residuals: Vec<f64> = labels.iter().zip(&predicted).map(|(l, p)| l - p).collect();
            of(labels, &residuals)
        };
        let swapped: Vec<f64> = labels.chunks_exact(2).flat_map(|l| [l[1], l[0]]).collect();
        for (i, fit) in against(&swapped).iter().enumerate() {
            assert!(fit.is_doubtful() && fit.follows == Some(1 - i), "{fit:?}");
        }
        let in_kilokelvin: Vec<f64> = labels.chunks_exact(2).flat_map(|l| [l[0] / 1e3, l[1]]).collect();
        let found = against(&in_kilokelvin);
        assert!(found[0].is_doubtful() && found[0].follows.is_none() && !found[1].is_doubtful());
    }

    /// Of two labels with given correlations with an output, by orthogonal patterns.
    #[test]
    fn another_label_is_followed_where_it_is_by_a_clear_margin() {
        let label = |correlation: f64, own: [f64; 4]| -> Vec<f64> {
            let rest = (1.0 - correlation * correlation).sqrt();
            let pattern = [1.0, 1.0, -1.0, -1.0].iter().zip(own);
            pattern.map(|(output, own)| correlation * output + rest * own).collect()
        };
        let follows = |own: f64, other: f64| {
            let labels = [label(own, [1.0, -1.0, 1.0, -1.0]), label(other, [1.0, -1.0, -1.0, 1.0])];
            followed(&[1.0, 1.0, -1.0, -1.0], &labels, 0)
        };
        assert_eq!((follows(0.9, 0.95), follows(0.8, 0.95)), (None, Some(1)));
        assert_eq!((follows(0.1, 0.45), follows(0.1, 0.55)), (None, Some(1)));
    }

    #[test]
    fn missing_values_that_are_numbers_are_counted() {
        let (mut labels, mut residuals) = stars(200);
        for star in [3, 50, 199] {
            residuals[2 * star] += -9999.0 - labels[2 * star];
            labels[2 * star] = -9999.0;
        }
        let found = of(&labels, &residuals);
        let stray = StrayLabel {
            value: -9999.0,
            n_spectra: 3,
        };
        assert_eq!((found[0].stray, found[1].stray), (Some(stray), None));
    }
}
