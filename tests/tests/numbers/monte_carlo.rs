//! The photon noise's covariance J_x C_flux J_x^T against noise drawn and sent through the network.
//!
//! For each real test spectrum of spex 1,000 spectra x + sigma z are predicted. Where the network is locally linear the covariance S of
//! these labels is a Wishart draw about `cov_flux` = C, so that m (tr(C^-1 S) - ln det(C^-1 S) - K) with m = 999 is chi^2 of
//! K (K + 1) / 2 = 6 degrees of freedom: variances and covariances in one number. Which stars are locally linear is found without any
//! Jacobian: the part of the shifts that does not change sign with the noise, (y(x + d) + y(x - d)) / 2 - y(x), is small.
//! At their full noise that is so for a few dozen stars; at a tenth of it, where the covariance must be a hundredth, for most.

use std::path::Path;

use fisherflow_network::{Arithmetic, Description, Network, Precision};
use fisherflow_tests::{Table, fisherflow, pipeline, repository, run};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

const LABELS: [&str; 3] = ["spt", "j_h", "h_ks"];
const K: usize = 3;
const DRAWS: usize = 1000;
/// Root mean square of the even part of the shifts over that of the shifts, for each label, at most.
const NONLINEAR: f64 = 0.05;
/// The chance that the test fails though all is well, in each of its two checks.
const FALSE_ALARM: f64 = 1e-6;

struct Draws {
    /// Covariance of the drawn labels, row-major.
    covariance: [f64; K * K],
    /// Largest of the labels' nonlinear parts.
    nonlinear: f64,
}

fn labels(network: &Network, flux: &[f64]) -> Vec<f64> {
    let forward = network.forward(flux).unwrap();
    forward.labels(network).unwrap()
}

fn draw(network: &Network, flux: &[f64], sigma: &[f64], seed: u64) -> Draws {
    let mut rng = ChaCha8Rng::seed_from_u64(20_240_229);
    rng.set_stream(seed);
    let at = labels(network, flux);
    let d = flux.len();
    let noise: Vec<f64> = (0..DRAWS * d)
        .map(|i| sigma[i % d] * Distribution::<f64>::sample(&StandardNormal, &mut rng))
        .collect();
    let moved = |sign: f64| -> Vec<f64> {
        noise
            .iter()
            .enumerate()
            .map(|(i, noise)| flux[i % d] + sign * noise)
            .collect()
    };
    let (plus, minus) = (labels(network, &moved(1.0)), labels(network, &moved(-1.0)));
    let mut mean = [0.0; K];
    let (mut even, mut all) = ([0.0; K], [0.0; K]);
    for n in 0..DRAWS {
        for k in 0..K {
            let (up, down) = (plus[n * K + k] - at[k], minus[n * K + k] - at[k]);
            mean[k] += up / DRAWS as f64;
            even[k] += (0.5 * (up + down)).powi(2);
            all[k] += up * up;
        }
    }
    let mut covariance = [0.0; K * K];
    for n in 0..DRAWS {
        for a in 0..K {
            for b in 0..K {
                let shift = |k: usize| plus[n * K + k] - at[k] - mean[k];
                covariance[a * K + b] += shift(a) * shift(b) / (DRAWS - 1) as f64;
            }
        }
    }
    let nonlinear = (0..K).map(|k| (even[k] / all[k]).sqrt()).fold(0.0, f64::max);
    Draws { covariance, nonlinear }
}

/// The lower factor of a positive definite matrix.
fn cholesky(matrix: &[f64]) -> [f64; K * K] {
    let mut lower = [0.0; K * K];
    for i in 0..K {
        for j in 0..=i {
            let rest: f64 = (0..j).map(|l| lower[i * K + l] * lower[j * K + l]).sum();
            let value = matrix[i * K + j] - rest;
            lower[i * K + j] = if i == j { value.sqrt() } else { value / lower[j * K + j] };
        }
    }
    assert!(
        lower.iter().all(|v| v.is_finite()),
        "{matrix:?} is not positive definite"
    );
    lower
}

/// m (tr(C^-1 S) - ln det(C^-1 S) - K).
fn wishart_statistic(found: &[f64], expected: &[f64]) -> f64 {
    let (s, c) = (cholesky(found), cholesky(expected));
    // Columns of L_c^-1 L_s: their squares sum to the trace.
    let mut trace = 0.0;
    for column in 0..K {
        let mut x = [0.0; K];
        for i in 0..K {
            let rest: f64 = (0..i).map(|l| c[i * K + l] * x[l]).sum();
            x[i] = (s[i * K + column] - rest) / c[i * K + i];
        }
        trace += x.iter().map(|v| v * v).sum::<f64>();
    }
    let log_det: f64 = (0..K).map(|i| 2.0 * (s[i * K + i] / c[i * K + i]).ln()).sum();
    (DRAWS - 1) as f64 * (trace - log_det - K as f64)
}

/// Chance that chi^2 of `2 * half` degrees of freedom exceeds `value`: the Poisson sum, exact.
fn chi_square_tail(value: f64, half: usize) -> f64 {
    let rate = 0.5 * value;
    let (mut log_term, mut sum) = (-rate, 0.0);
    for j in 0..half {
        if j > 0 {
            log_term += (rate / j as f64).ln();
        }
        sum += log_term.exp();
    }
    sum
}

#[test]
fn chi_square_tails_are_those_of_tables() {
    for (value, half, tail) in [
        (5.991, 1, 0.05),
        (12.592, 3, 0.05),
        (22.458, 3, 0.001),
        (124.342, 50, 0.05),
    ] {
        let found = chi_square_tail(value, half);
        assert!((found / tail - 1.0).abs() < 1e-3, "{value} of {}: {found}", 2 * half);
    }
}

#[test]
fn the_photon_noise_of_real_spectra_is_that_of_drawn_noise() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let file = pipeline("quickstart.toml", folder.path(), &output);
    run(fisherflow().arg("run").arg(&file).args(["-w", "2"])).expect_done();
    let stars = Table::read(&output.join("predictions"));
    for (noise, enough) in [(1.0, 20), (0.1, 150)] {
        let (found, unmasked) = compare(&stars, noise);
        let n = found.len();
        let (worst, largest) = found
            .iter()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .expect("a star that is locally linear");
        let sum: f64 = found.iter().map(|(_, statistic)| statistic).sum();
        // Of n stars one is as far off by a chance of at most n times its own.
        let (alone, together) = (
            (chi_square_tail(*largest, 3) * n as f64).min(1.0),
            chi_square_tail(sum, 3 * n),
        );
        println!(
            "noise x {noise}: {n} of {unmasked} unmasked stars are locally linear to {NONLINEAR}; the worst, {worst}, has chi^2 {largest:.1} \
             of 6, by chance {alone:.1e}; all have {sum:.0} of {}, by chance {together:.1e}",
            6 * n
        );
        assert!(n >= enough, "too few stars are locally linear to tell anything");
        assert!(alone > FALSE_ALARM && together > FALSE_ALARM);
    }
}

/// Identifier and statistic of each unmasked star where the network is locally linear at this part of its noise, and the number of
/// unmasked stars.
fn compare(stars: &Table, noise: f64) -> (Vec<(String, f64)>, usize) {
    let sample = repository().join("data-samples/spex");
    let network = network(&sample);
    let spectra = Table::read(&sample.join("test.parquet"));
    assert_eq!(stars.len(), spectra.len());
    let mut found = Vec::new();
    let mut unmasked = 0;
    for row in 0..spectra.len() {
        let id = spectra.text("id", row);
        assert_eq!(stars.text("id", row), id, "rows keep the order of the catalogue");
        let (flux, sigma) = (spectra.list("flux", row), spectra.list("sigma", row));
        if sigma.contains(&0.0) {
            continue;
        }
        unmasked += 1;
        for (label, expected) in LABELS.iter().zip(labels(&network, &flux)) {
            let said = stars.number(label, row);
            assert!(
                (said - expected).abs() < 1e-3,
                "{id}: {label} is {said}, the network says {expected}"
            );
        }
        let sigma: Vec<f64> = sigma.iter().map(|sigma| noise * sigma).collect();
        let draws = draw(&network, &flux, &sigma, row as u64);
        if draws.nonlinear <= NONLINEAR {
            let expected: Vec<f64> = stars.list("cov_flux", row).iter().map(|c| noise * noise * c).collect();
            found.push((id, wishart_statistic(&draws.covariance, &expected)));
        }
    }
    (found, unmasked)
}

fn network(sample: &Path) -> Network {
    let bytes = std::fs::read(sample.join("network.safetensors")).unwrap();
    let arithmetic = Arithmetic {
        precision: Precision::F64,
        threads: 1,
    };
    Network::from_safetensors(&bytes, &Description::default(), arithmetic).unwrap()
}
