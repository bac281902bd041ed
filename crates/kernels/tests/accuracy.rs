//! Products of every path against f64, on numbers without a pattern and on spectra: a continuum near 1 with lines of 1e-3.

use faer::{MatMut, MatRef};
use fisherflow_kernels::{Path, Products, Start, add_gram, multiply};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SPECTRA: usize = 96;
const PIXELS: usize = 3000;
const UNITS: usize = 80;

/// `[SPECTRA, PIXELS]`: lines of 1e-3, each spectrum's depths its own, and noise of 3e-4.
fn spectra() -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let lines: Vec<(f64, f64)> = (0..150)
        .map(|_| (rng.random_range(0.0..PIXELS as f64), rng.random_range(2.0..6.0)))
        .collect();
    let mut flux = Vec::with_capacity(SPECTRA * PIXELS);
    for _ in 0..SPECTRA {
        let mut spectrum = vec![1.0; PIXELS];
        for (centre, width) in &lines {
            let depth = 1e-3 * rng.random_range(0.2..1.8);
            let pixels = (centre - 20.0).max(0.0) as usize..((centre + 20.0) as usize).min(PIXELS);
            for (pixel, flux) in pixels.clone().zip(&mut spectrum[pixels]) {
                let x = (pixel as f64 - centre) / width;
                *flux -= depth * (-0.5 * x * x).exp();
            }
        }
        flux.extend(spectrum.iter().map(|x| (x + 3e-4 * rng.random_range(-1.7..1.7)) as f32));
    }
    flux
}

fn uniform(len: usize, size: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    (0..len).map(|_| rng.random_range(-size..size)).collect()
}

/// `|C - AB| / |AB|`, Frobenius, of the whole and of what varies from row to row.
fn errors(path: Path, a: &[f32], b: &[f32]) -> (f64, f64) {
    let mut c = vec![0.0; SPECTRA * UNITS];
    multiply(
        MatMut::from_row_major_slice_mut(&mut c, SPECTRA, UNITS),
        Start::Zero,
        MatRef::from_row_major_slice(a, SPECTRA, PIXELS),
        MatRef::from_row_major_slice(b, PIXELS, UNITS),
        Products { path, threads: 2 },
    );
    let mut exact = vec![0.0; SPECTRA * UNITS];
    for (exact, a) in exact.chunks_exact_mut(UNITS).zip(a.chunks_exact(PIXELS)) {
        for (a, b) in a.iter().zip(b.chunks_exact(UNITS)) {
            exact
                .iter_mut()
                .zip(b)
                .for_each(|(sum, b)| *sum += f64::from(*a) * f64::from(*b));
        }
    }
    let mut error: Vec<f64> = c.iter().zip(&exact).map(|(c, exact)| f64::from(*c) - exact).collect();
    let whole = norm(&error) / norm(&exact);
    remove_mean(&mut error);
    remove_mean(&mut exact);
    (whole, norm(&error) / norm(&exact))
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Takes the mean row from every row.
fn remove_mean(values: &mut [f64]) {
    let mut mean = vec![0.0; UNITS];
    for row in values.chunks_exact(UNITS) {
        mean.iter_mut()
            .zip(row)
            .for_each(|(mean, x)| *mean += x / SPECTRA as f64);
    }
    for row in values.chunks_exact_mut(UNITS) {
        row.iter_mut().zip(&mean).for_each(|(x, mean)| *x -= mean);
    }
}

/// What a path's relative error may be.
fn bound(path: Path) -> f64 {
    match path {
        Path::Portable | Path::Avx2 | Path::Avx512 => 6e-7,
        Path::Avx512Bf16x3 | Path::AmxBf16x3 => 8e-6,
        Path::Avx512Bf16 | Path::AmxBf16 => 4e-3,
        Path::I16 => 3e-4,
    }
}

#[test]
fn every_path_holds_its_bound_and_what_varies_needs_centred_spectra() {
    let (noise, weights) = (uniform(SPECTRA * PIXELS, 1.0), uniform(PIXELS * UNITS, 0.03));
    let flux = spectra();
    let mut centred = flux.clone();
    let mut mean = vec![0.0; PIXELS];
    for row in flux.chunks_exact(PIXELS) {
        mean.iter_mut()
            .zip(row)
            .for_each(|(mean, x)| *mean += f64::from(*x) / SPECTRA as f64);
    }
    for row in centred.chunks_exact_mut(PIXELS) {
        row.iter_mut()
            .zip(&mean)
            .for_each(|(x, mean)| *x = (f64::from(*x) - mean) as f32);
    }
    for path in Path::available() {
        let bound = bound(path);
        let (of_noise, of_flux, of_centred) = (
            errors(path, &noise, &weights),
            errors(path, &flux, &weights),
            errors(path, &centred, &weights),
        );
        println!("{path}: {of_noise:?} {of_flux:?} {of_centred:?}");
        assert!(
            of_noise.0 < bound && of_flux.0 < bound,
            "{path}: {of_noise:?} {of_flux:?}"
        );
        assert!(of_centred.0 < bound && of_centred.1 < bound, "{path}: {of_centred:?}");
        assert!(
            of_flux.1 > 20.0 * of_centred.1,
            "{path}: the part that varies, {of_flux:?} {of_centred:?}"
        );
    }
}

#[test]
fn gram_of_centred_spectra_is_close_and_its_diagonal_closer() {
    let mut x = spectra();
    x.truncate(SPECTRA * 500);
    x.iter_mut().for_each(|x| *x -= 1.0);
    let n = 500;
    let mut sums = vec![0.0; n * (n + 1) / 2];
    add_gram(MatRef::from_row_major_slice(&x, SPECTRA, n), &mut sums, 2);
    let column = |j: usize| x.chunks_exact(n).map(move |row| f64::from(row[j]));
    for i in 0..n {
        for j in 0..=i {
            let exact: f64 = column(i).zip(column(j)).map(|(x, y)| x * y).sum();
            let size: f64 = column(i).map(|x| x * x).sum::<f64>() * column(j).map(|x| x * x).sum::<f64>();
            let bound = if i == j { 1e-15 } else { 1e-6 };
            let error = (sums[i * (i + 1) / 2 + j] - exact).abs();
            assert!(error <= bound * size.sqrt(), "{i} {j}: {error:e}");
        }
    }
}
