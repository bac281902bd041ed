//! Are the error bars as large as the errors? The pulls of spectra that the sums have not seen, in numbers and in a sentence.

use crate::findings::Findings;
use crate::html::{Cell, escape, paragraph, table, warning};
use crate::numbers::{count, counted, percent, significant};
use crate::settings::{Budget, Pulls, Shown};

/// What is never called a deviation: a tenth of an error bar.
const TOLERANCE: f64 = 0.1;
/// Nor is a share this close.
const SHARE_TOLERANCE: f64 = 0.05;

/// What a pull is.
const A_PULL: &str = "A pull is (label - prediction) / error bar; the error bar holds the label's own error too, where the catalogue has one. Over \
                      right error bars pulls of spectra that are not in the sums have mean 0 and standard deviation 1, and 68.3 % lie within one.";
/// What pulls are over spectra that something was fitted to. C_intrinsic makes up for errors larger than the other parts, and takes nothing away from
/// parts that are too large.
const FITTED: &str = "These pulls are over held-out spectra that the error bars are fitted to: no independent test. What is fitted brings their root mean \
                      square to 1, so that one near 1 proves nothing; where it is far from 1 the error bars are wrong all the same.";

/// The section.
pub(crate) fn pulls(findings: &Findings) -> String {
    let compared = match findings.settings.shown() {
        Shown::Fitted { pulls, are_predicted } => {
            let more = if are_predicted {
                "A catalogue of its own for the predictions, with labels, gives a test."
            } else {
                "Of the predicted spectra outside the sums fewer than two have labels, and errors that these can be compared with."
            };
            fitted_to(findings, pulls, more)
        }
        Shown::Predicted {
            pulls,
            is_test,
            held_out,
        } => {
            let meaning = if is_test == Some(true) {
                in_words(findings, pulls, |pulls| Some(verdict(pulls)))
            } else {
                String::new()
            };
            paragraph(A_PULL)
                + &known(is_test)
                + &grid(findings, pulls)
                + &meaning
                + &held_out.map_or_else(String::new, beside)
        }
        Shown::Nothing => warning(
            "These error bars were compared with nothing: fewer than two predicted spectra outside the sums have labels, and errors that these can \
             be compared with. Do not take them as calibrated.",
        ),
    };
    compared + &budget(findings) + &cells(findings)
}

/// Pulls over spectra that the error bars are fitted to: they can refute error bars, and confirm none.
fn fitted_to(findings: &Findings, pulls: &[Pulls], more: &str) -> String {
    let said = warning(&format!("{FITTED} {more}"));
    paragraph(A_PULL) + &said + &grid(findings, pulls) + &in_words(findings, pulls, refuted)
}

/// Whether pulls over spectra of [predict] are a test; of how many of their stars are in the fit's catalogue the notes tell.
fn known(is_test: Option<bool>) -> String {
    match is_test {
        None => warning(
            "These pulls are over spectra of [predict]. Whether they test the error bars is unknown: the run's notes say why.",
        ),
        Some(false) => warning(
            "These pulls are over spectra of [predict], of too many stars that the fit has too, as the run's notes say: over these they are no test \
             of the error bars.",
        ),
        Some(true) => String::new(),
    }
}

/// A row a label.
fn grid(findings: &Findings, pulls: &[Pulls]) -> String {
    let labels = &findings.settings.network.labels;
    let rows: Vec<Vec<Cell>> = labels
        .iter()
        .zip(pulls)
        .map(|(name, pulls)| {
            vec![
                Cell::text(name),
                Cell::Number(significant(pulls.mean, 3)),
                Cell::Number(significant(pulls.standard_deviation, 3)),
                Cell::Number(percent(pulls.within_one_sigma)),
                Cell::Number(count(pulls.n_spectra)),
            ]
        })
        .collect();
    table(&["label", "mean", "standard deviation", "within one", "spectra"], &rows)
}

/// What the pulls mean, of the labels of which they tell something.
fn in_words(findings: &Findings, pulls: &[Pulls], tell: impl Fn(&Pulls) -> Option<String>) -> String {
    let labels = &findings.settings.network.labels;
    let mut said = String::new();
    for (name, pulls) in labels.iter().zip(pulls) {
        if let Some(told) = tell(pulls) {
            said.push_str(&format!(
                "<li><strong>{}</strong>: {}</li>\n",
                escape(name),
                escape(&told)
            ));
        }
    }
    if said.is_empty() {
        return said;
    }
    format!("<ul>\n{said}</ul>\n")
}

/// Which spectra the pulls are over, and what they are over the held-out ones, which the error bars were fitted to.
fn beside(held_out: &[Pulls]) -> String {
    let stds: Vec<String> = held_out
        .iter()
        .map(|pulls| significant(pulls.standard_deviation, 3))
        .collect();
    let spectra = held_out.first().map_or(0, |pulls| pulls.n_spectra);
    paragraph(&format!(
        "These pulls are over spectra of [predict]. Over the {}, which the error bars are fitted to, their standard deviations are {}.",
        counted(spectra, "held-out spectrum of the fit", "held-out spectra of the fit"),
        stds.join(", ")
    ))
}

/// C_intrinsic by cell of label space.
fn cells(findings: &Findings) -> String {
    let settings = &findings.settings;
    let Some(first) = settings.intrinsic_cells.first() else {
        return String::new();
    };
    let labels = &settings.network.labels;
    let name = |label: usize| labels.get(label).map_or("", String::as_str);
    let mut header: Vec<&str> = first.intervals.iter().map(|interval| name(interval.label)).collect();
    let sigmas: Vec<String> = (0..labels.len())
        .map(|label| super::with_unit(&format!("intrinsic {}", name(label)), settings.unit(label)))
        .collect();
    header.push("spectra");
    header.extend(sigmas.iter().map(String::as_str));
    let edge = |edge: Option<f64>| edge.map_or_else(String::new, |edge| edge.to_string());
    let rows: Vec<Vec<Cell>> = settings
        .intrinsic_cells
        .iter()
        .map(|cell| {
            let intervals = cell.intervals.iter();
            let mut row: Vec<Cell> = intervals
                .map(|interval| Cell::text(format!("{} to {}", edge(interval.low), edge(interval.high)).trim()))
                .collect();
            row.push(Cell::Number(count(cell.n_spectra)));
            row.extend((0..labels.len()).map(|label| match &cell.own {
                Some(own) => Cell::Number(significant(own.standard_deviation(label).unwrap_or(f64::NAN), 3)),
                None => Cell::text("that of all cells"),
            }));
            row
        })
        .collect();
    format!(
        "<h3>Intrinsic scatter by predicted label</h3>\n{}",
        table(&header, &rows)
    )
}

/// Whether pulls are of another size than over right error bars, by more than twice the standard error for normal pulls.
fn is_far_from_one(size: f64, n_spectra: u64) -> bool {
    (size - 1.0).abs() > TOLERANCE.max(2.0 / (2.0 * (n_spectra as f64 - 1.0)).sqrt())
}

/// What is wrong with the error bars of one label by the pulls of spectra that they were fitted to, if anything. These were fitted about 0: a bias
/// is an error like any other.
fn refuted(pulls: &Pulls) -> Option<String> {
    let size = pulls.mean.hypot(pulls.standard_deviation);
    is_far_from_one(size, pulls.n_spectra).then(|| {
        format!(
            "the error bars are too {}: in the root mean square the errors are {} times as large (from {}).",
            if size > 1.0 { "small" } else { "large" },
            significant(size, 2),
            counted(pulls.n_spectra, "spectrum", "spectra")
        )
    })
}

/// The normal distribution's integral, to 1e-7: erf by Abramowitz and Stegun (1964), 7.1.26.
fn normal_cdf(x: f64) -> f64 {
    let z = x.abs() * std::f64::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let coefficients: [f64; 5] = [
        1.061_405_429,
        -1.453_152_027,
        1.421_413_741,
        -0.284_496_736,
        0.254_829_592,
    ];
    let beyond = coefficients.iter().fold(0.0, |sum: f64, a| (sum + a) * t) * (-z * z).exp();
    if x < 0.0 { 0.5 * beyond } else { 1.0 - 0.5 * beyond }
}

/// What the pulls of one label mean.
fn verdict(pulls: &Pulls) -> String {
    let Pulls {
        n_spectra,
        mean,
        standard_deviation: scatter,
        within_one_sigma: within,
    } = *pulls;
    let n = n_spectra as f64;
    if n_spectra < 2 || !mean.is_finite() || !scatter.is_finite() {
        return "too few spectra to say anything.".to_owned();
    }
    let from = format!("(from {})", counted(n_spectra, "spectrum", "spectra"));
    // Twice the standard error of each, for normal pulls.
    let of_mean = TOLERANCE.max(2.0 * scatter / n.sqrt());
    // Of normal pulls of this mean and scatter.
    let expected = normal_cdf((1.0 - mean) / scatter) - normal_cdf((-1.0 - mean) / scatter);
    let of_share = SHARE_TOLERANCE.max(2.0 * (expected * (1.0 - expected) / n).sqrt());
    let right = !is_far_from_one(scatter, n_spectra);
    let mut says = if right {
        format!("the error bars are as large as the errors scatter, as far as these spectra can tell {from}")
    } else if scatter > 1.0 {
        format!(
            "the error bars are too small: the errors scatter {} times as much {from}",
            significant(scatter, 2)
        )
    } else {
        format!(
            "the error bars are too large: the errors scatter only {} times as much {from}",
            significant(scatter, 2)
        )
    };
    let biased = mean.abs() > of_mean;
    if biased {
        let side = if mean < 0.0 { "above" } else { "below" };
        says.push_str(&format!(
            "; the predictions lie on average {} error bars {side} the labels: a bias, which an error bar does not mend",
            significant(mean.abs(), 2)
        ));
    }
    if right && !biased && (within - expected).abs() > of_share {
        let shape = if within > expected {
            "most errors are smaller, and a few large ones make up the scatter"
        } else {
            "the errors are not normally distributed"
        };
        says.push_str(&format!(
            "; {} lie within one error bar where {} are expected: {shape}",
            percent(within),
            percent(expected)
        ));
    }
    says + "."
}

/// The error budget of the held-out spectra, label by label.
fn budget(findings: &Findings) -> String {
    let Some(budget) = &findings.settings.intrinsic_estimate else {
        return String::new();
    };
    let labels = &findings.settings.network.labels;
    let k = labels.len();
    let rows: Vec<Vec<Cell>> = labels
        .iter()
        .enumerate()
        .map(|(label, name)| {
            let root = |of: fn(&Budget) -> &Vec<f64>| {
                let variance = of(budget).get(label * k + label).copied().unwrap_or(f64::NAN);
                Cell::Number(significant(variance.sqrt(), 3))
            };
            let intrinsic = budget.intrinsic.standard_deviation(label).unwrap_or(f64::NAN);
            let bias = budget.mean_residual.get(label).copied().unwrap_or(f64::NAN);
            vec![
                Cell::text(super::with_unit(name, findings.settings.unit(label))),
                root(|budget| &budget.residual_second_moment),
                Cell::Number(significant(bias, 3)),
                root(|budget| &budget.mean_flux),
                root(|budget| &budget.mean_weights),
                root(|budget| &budget.mean_label_covariance),
                Cell::Number(significant(intrinsic, 3)),
            ]
        })
        .collect();
    let header = [
        "label",
        "root mean square error",
        "mean error",
        "flux",
        "weights",
        "labels' own errors",
        "intrinsic",
    ];
    format!(
        "<h3>Error budget of the held-out spectra</h3>\n{}<p class=\"small\">From {}; an error is label minus prediction. Flux, weights and \
         labels' own errors are roots of mean variances. Intrinsic is the scatter under which these errors are likeliest beside each star's own \
         parts, for all labels at once; means over stars do not add up to it.</p>\n",
        table(&header, &rows),
        counted(budget.n_spectra, "spectrum", "spectra")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(n_spectra: u64, mean: f64, standard_deviation: f64, within_one_sigma: f64) -> String {
        verdict(&Pulls {
            n_spectra,
            mean,
            standard_deviation,
            within_one_sigma,
        })
    }

    #[test]
    fn the_normal_distribution_is_that_of_tables() {
        for (x, cdf) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746),
            (-1.0, 0.158_655_254),
            (1.959_963_985, 0.975),
        ] {
            assert!((normal_cdf(x) - cdf).abs() < 2e-7, "{x}");
        }
        assert_eq!((normal_cdf(f64::INFINITY), normal_cdf(f64::NEG_INFINITY)), (1.0, 0.0));
    }

    #[test]
    fn pulls_in_words() {
        assert!(says(1000, 0.02, 1.03, 0.68).starts_with("the error bars are as large as the errors"));
        let small = says(1000, -0.6, 2.0, 0.4);
        assert!(
            small.contains("too small") && small.contains("0.60 error bars above the labels"),
            "{small}"
        );
        assert!(says(1000, 0.0, 0.5, 0.95).contains("too large: the errors scatter only 0.50 times"));
        assert!(says(1000, 0.0, 1.0, 0.80).contains(
            "80.0 % lie within one error bar where 68.3 % are expected: most errors are smaller, and a few large ones"
        ));
        // Normal pulls whose scatter is within a tenth of 1, and others.
        assert!(!says(10_000, 0.0, 0.905, 0.731).contains("a few large ones"));
        assert!(says(10_000, 0.0, 1.08, 0.72).contains("where 64.6 % are expected"));
        // Ten spectra cannot tell 1.3 from 1.
        assert!(says(10, 0.2, 1.3, 0.6).starts_with("the error bars are as large"));
        assert!(says(0, f64::NAN, f64::NAN, f64::NAN).starts_with("too few"));
    }
}
