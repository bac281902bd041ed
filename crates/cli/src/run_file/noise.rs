//! `[noise]`: the residual covariance R of the labels.

use fisherflow_dataflow::{Compute, clip_to_psd};

use super::entry::Entry;
use super::error::RunFileError;
use super::table::Table;

/// Keys of `[noise]`.
pub const KEYS: &[&str] = &[
    "from",
    "covariance",
    "holdout_fraction",
    "farthest_input",
    "errors_in_variables",
    "intrinsic_bins",
    "basis",
];

/// `[noise]`.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseTable {
    /// `[K][K]` in label units; `None` is `from = "holdout"`.
    pub covariance: Option<Vec<Vec<f64>>>,
    /// Share of the catalogue held out, by hash of id; in `[0, 1)`, above 0 where the residuals are measured.
    pub holdout_fraction: f64,
    /// How many times as far as the farthest input of a typical held-out spectrum an input must be for its spectrum to be out of range; above
    /// 1, infinite where the run file says `false`.
    pub farthest_input: f64,
    /// Whether each spectrum's photon noise weighs its labels too.
    pub errors_in_variables: bool,
    /// Labels with the edges of their intervals, ascending, in the order of the file: the cells of C_intrinsic.
    pub intrinsic_bins: Vec<(String, Vec<f64>)>,
    /// URI of what the sums are taken about, as written; `None`: the run finds it.
    pub basis: Option<String>,
}

impl Default for NoiseTable {
    fn default() -> Self {
        let compute = Compute::default();
        Self {
            covariance: None,
            holdout_fraction: compute.holdout_fraction,
            farthest_input: compute.farthest_input,
            errors_in_variables: false,
            intrinsic_bins: Vec::new(),
            basis: None,
        }
    }
}

/// What a given covariance must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fits {
    /// Number of labels, where the run file says it.
    pub labels: Option<usize>,
    /// Whether the stars bring label errors of their own, so that R alone need not be invertible.
    pub label_errors: bool,
    /// Whether the inputs have no errors.
    pub exact_inputs: bool,
}

impl NoiseTable {
    /// Reads the table.
    ///
    /// # Errors
    /// Both or wrong sources; a covariance that is not K x K, symmetric, and positive definite (semidefinite with label errors).
    pub fn read(table: &Table<'_>, fits: Fits) -> Result<Self, RunFileError> {
        let default = Self::default();
        if let Some(from) = table.get("from") {
            from.choice(&[("holdout", ())], &[])?;
            if table.get("covariance").is_some() {
                return Err(from.invalid("stands beside a covariance: keep from = \"holdout\" or covariance = [[...]]"));
            }
        }
        let covariance = table.get("covariance").map(|e| covariance(&e, fits)).transpose()?;
        let holdout_fraction = match table.get("holdout_fraction") {
            None => default.holdout_fraction,
            Some(e) => {
                let x = e.number()?;
                let low_enough = x < 1.0;
                let high_enough = x > 0.0 || (x == 0.0 && covariance.is_some());
                if !(low_enough && high_enough) {
                    return Err(e.invalid(format!(
                        "is {x}, expected a share above 0 and below 1{}",
                        if covariance.is_some() { ", or 0" } else { "" }
                    )));
                }
                x
            }
        };
        let farthest_input = table
            .get("farthest_input")
            .map_or(Ok(default.farthest_input), |e| farthest_input(&e))?;
        let errors_in_variables = match table.get("errors_in_variables") {
            None => false,
            Some(entry) => {
                let asked = entry.boolean()?;
                if asked && fits.exact_inputs {
                    return Err(entry.invalid(
                        "stands beside [catalogue] exact_inputs = true: inputs without errors bring no photon noise; leave it out",
                    ));
                }
                asked
            }
        };
        let mut intrinsic_bins = Vec::new();
        if let Some(bins) = table.table("intrinsic_bins")? {
            for (label, entry) in bins.entries() {
                intrinsic_bins.push((label, edges(&entry, holdout_fraction)?));
            }
        }
        Ok(Self {
            covariance,
            holdout_fraction,
            farthest_input,
            errors_in_variables,
            intrinsic_bins,
            basis: table.get("basis").map(|entry| entry.string()).transpose()?,
        })
    }
}

/// A number above 1, or `false`.
fn farthest_input(entry: &Entry<'_>) -> Result<f64, RunFileError> {
    if entry.is_boolean() {
        return match entry.boolean()? {
            false => Ok(f64::INFINITY),
            true => Err(entry.invalid("is true: write how many times as far an input may be, or false for no limit")),
        };
    }
    match entry.number()? {
        times if times > 1.0 => Ok(times),
        times => Err(entry.invalid(format!("is {times}, expected a number above 1, or false for no limit"))),
    }
}

/// Edges of a label's intervals.
fn edges(entry: &Entry<'_>, holdout_fraction: f64) -> Result<Vec<f64>, RunFileError> {
    let edges = entry.numbers()?;
    if edges.is_empty() {
        return Err(entry.invalid("has no edge: give at least one, or leave the label out"));
    }
    if let Some(pair) = edges.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(entry.invalid(format!("does not ascend: {} stands before {}", pair[0], pair[1])));
    }
    if holdout_fraction == 0.0 {
        return Err(entry.invalid("needs held-out spectra, and noise.holdout_fraction is 0"));
    }
    Ok(edges)
}

/// A covariance that is one.
fn covariance(entry: &Entry<'_>, fits: Fits) -> Result<Vec<Vec<f64>>, RunFileError> {
    let rows = entry
        .array("an array of rows of numbers")?
        .iter()
        .map(Entry::numbers)
        .collect::<Result<Vec<_>, _>>()?;
    let k = fits.labels.unwrap_or(rows.len());
    if rows.is_empty() || rows.len() != k || rows.iter().any(|r| r.len() != k) {
        let sizes: Vec<String> = rows.iter().map(|r| r.len().to_string()).collect();
        return Err(entry.invalid(format!(
            "has rows of {} numbers, expected {k} rows of {k}: one a label",
            if sizes.is_empty() {
                "no".to_owned()
            } else {
                sizes.join(", ")
            }
        )));
    }
    for (i, row) in rows.iter().enumerate() {
        for (j, (below, above)) in row[..i].iter().zip(rows.iter().map(|r| r[i])).enumerate() {
            if *below != above {
                return Err(entry.invalid(format!(
                    "is not symmetric: row {i} column {j} is {below}, row {j} column {i} is {above}"
                )));
            }
        }
        if row[i] < 0.0 {
            return Err(entry.invalid(format!("has the negative variance {} of label {i}", row[i])));
        }
    }
    let least = least_correlation_eigenvalue(&rows);
    let rounding = 1e-12 * k as f64;
    if least < -rounding {
        return Err(entry.invalid("is not positive semidefinite: a combination of labels has a negative variance"));
    }
    if !fits.label_errors && least < rounding {
        return Err(entry.invalid(
            "is singular: a combination of labels has no variance; give a larger one, or label_errors in [catalogue]",
        ));
    }
    Ok(rows)
}

/// The least eigenvalue of the correlation matrix; a label without variance counts as one of eigenvalue 0, and one that covaries all the
/// same as negative.
fn least_correlation_eigenvalue(covariance: &[Vec<f64>]) -> f64 {
    let mut sigmas = Vec::with_capacity(covariance.len());
    for (i, row) in covariance.iter().enumerate() {
        if row[i] == 0.0 && row.iter().any(|&other| other != 0.0) {
            return -1.0;
        }
        sigmas.push(if row[i] > 0.0 { row[i].sqrt() } else { 1.0 });
    }
    // Correlations beyond all numbers are of no covariance.
    clip_to_psd(&covariance.concat(), &sigmas, 0.0, "noise.covariance").map_or(-1.0, |found| found.eigenvalues[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvalues_of_a_known_matrix() {
        // Correlations 1/2 between all three: eigenvalues 2, 1/2, 1/2; the units do not matter.
        let c = vec![vec![1e4, 50.0, 5.0], vec![50.0, 1.0, 0.05], vec![5.0, 0.05, 0.01]];
        assert!((least_correlation_eigenvalue(&c) - 0.5).abs() < 1e-12);
        let indefinite = vec![vec![1.0, 2.0], vec![2.0, 1.0]];
        assert!((least_correlation_eigenvalue(&indefinite) + 1.0).abs() < 1e-12);
        assert_eq!(least_correlation_eigenvalue(&[vec![0.0, 1.0], vec![1.0, 1.0]]), -1.0);
        assert_eq!(least_correlation_eigenvalue(&[vec![0.0]]), 0.0);
    }
}
