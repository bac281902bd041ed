//! Whether the products asked for are exact enough for this network and these spectra; where they are not, which slower ones are.
//!
//! `bf16x3` and `bf16` are tried on the first usable rows of the catalogue's first row group, and of others where that has not enough, before any pass:
//! J_x and `J_x C_flux J_x^T` against f64. Every process tries the same rows on the same kernel, so all come to the same. A star's figure is its
//! largest error; what counts is the figure that 95 % of the stars stay below, because a star whose argument of a relu is 0 but for rounding has two
//! right answers. What nothing could be tried on is not trusted.
//!
//! A GPU's products are tried on the same spectra, against the CPU's: some multiply in a shorter type than they are asked to, some lack an operation.

use fisherflow_network::{Arithmetic, InputJacobian, Network, NetworkError, Precision, Processor};
use fisherflow_posterior::flux_covariance;
use fisherflow_spectra::Group;
use fisherflow_store::Catalogue;

use crate::context::PREFETCH_BYTES;
use crate::error::RunError;

/// Spectra that are tried.
const SPECTRA: usize = 64;
/// Row groups that are looked into for them, at most, evenly over the catalogue: nobody waits for a survey to be read before its first pass.
const ROW_GROUPS: usize = 64;

/// Share of them that must be as exact as is asked.
const SHARE: f64 = 0.95;

/// What a star's J_x and its covariance may be off by; `None`: not tried.
fn tolerance(precision: Precision) -> Option<f64> {
    match precision {
        Precision::F32 | Precision::F64 | Precision::Auto => None,
        Precision::Bf16x3 => Some(3e-5),
        Precision::Bf16 => Some(1e-2),
    }
}

/// What is taken where a precision is not exact enough.
fn slower(precision: Precision) -> Precision {
    match precision {
        Precision::Bf16 if Precision::Bf16x3.kernel().is_ok() => Precision::Bf16x3,
        _ => Precision::F32,
    }
}

/// The precision to go on with: the one of `arithmetic`, or the first slower one that is exact enough. `open` gives the network in an arithmetic.
pub(crate) fn exact_enough(
    arithmetic: Arithmetic,
    catalogue: &Catalogue,
    open: impl Fn(Arithmetic) -> Result<Network, NetworkError>,
) -> Result<Precision, RunError> {
    let mut precision = arithmetic.precision;
    if tolerance(precision).is_none() {
        return Ok(precision);
    }
    let spectra = Spectra::read(catalogue)?;
    if spectra.flux.is_empty() {
        let taken = Precision::F32;
        tracing::warn!(
            asked = %precision, %taken, catalogue = catalogue.summary().uri.as_str(),
            "no spectrum of the catalogue is usable in those row groups that were tried: the run takes slower products, which need no trial"
        );
        return Ok(taken);
    }
    let of = |precision| -> Result<Answer, RunError> {
        let network = open(Arithmetic {
            precision,
            ..arithmetic
        })?
        .with_packed_weights();
        spectra.answer(&network)
    };
    let exact = of(Precision::F64)?;
    while let Some(tolerance) = tolerance(precision) {
        let error = of(precision)?.error(&exact);
        // Not a number is not exact.
        if error <= tolerance {
            break;
        }
        let taken = slower(precision);
        tracing::warn!(
            asked = %precision, error, tolerance, %taken, spectra = exact.n,
            "these products are not exact enough for this network and its spectra: the run takes slower ones"
        );
        precision = taken;
    }
    Ok(precision)
}

/// What a star's J_x and its covariance may differ by between a GPU and the CPU.
fn apart_on_a_gpu(precision: Precision) -> f64 {
    if precision == Precision::F64 { 1e-10 } else { 3e-5 }
}

/// Refuses a processor where the network, moved there, says something else than here, or where no spectrum is usable to ask it of.
pub(crate) fn as_on_the_cpu(
    processor: Processor,
    moved: &Network,
    here: &Network,
    catalogue: &Catalogue,
) -> Result<(), RunError> {
    Spectra::read(catalogue)?.said_alike(processor, moved, here)
}

/// Spectra without gaps.
struct Spectra {
    /// `[n, D]`
    flux: Vec<f64>,
    /// `[n, D]`
    variance: Vec<f64>,
}

impl Spectra {
    /// The first usable rows of the first row group, and of others where that has not enough; a masked pixel has the means of its spectrum.
    fn read(catalogue: &Catalogue) -> Result<Self, RunError> {
        let mut read = Self {
            flux: Vec::new(),
            variance: Vec::new(),
        };
        let every = catalogue.shards().len().div_ceil(ROW_GROUPS).max(1);
        for shard in catalogue.shards().iter().step_by(every) {
            let group = Group {
                index: 0,
                shards: vec![shard.clone()],
            };
            for batch in catalogue.fetch(&group, SPECTRA, PREFETCH_BYTES) {
                let batch = batch?;
                let d = batch.n_pixels;
                for row in (0..batch.n_rows()).filter(|&row| !batch.is_bad(row)) {
                    let pixels = row * d..(row + 1) * d;
                    let good = &batch.good[pixels.clone()];
                    read.flux.extend(without_gaps(&batch.flux[pixels.clone()], good));
                    read.variance.extend(without_gaps(&batch.variance[pixels], good));
                    if read.flux.len() >= SPECTRA * d {
                        return Ok(read);
                    }
                }
            }
        }
        Ok(read)
    }

    fn answer(&self, network: &Network) -> Result<Answer, RunError> {
        let forward = network.forward(&self.flux)?;
        let backward = network.backward(&forward, InputJacobian::Wanted)?;
        let jacobian = backward
            .input_jacobian
            .ok_or_else(|| RunError::Internal("a pass was asked for J_x and gave none".into()))?;
        let values = || jacobian.flatten_all()?.to_dtype(candle_core::DType::F64)?.to_vec1();
        Ok(Answer {
            n: forward.batch(),
            k: network.n_labels(),
            covariance: flux_covariance(&jacobian, &self.variance)?,
            jacobian: values().map_err(|error: candle_core::Error| RunError::Internal(error.to_string()))?,
        })
    }

    /// Refuses a network that says something else of them on a processor than here.
    fn said_alike(&self, processor: Processor, moved: &Network, here: &Network) -> Result<(), RunError> {
        if self.flux.is_empty() {
            return Err(RunError::Refused(format!(
                "compute.device: no spectrum of the catalogue is usable (in {ROW_GROUPS} row groups or all), and `{processor}` cannot be compared with \
                 the CPU: look at `exclude` and the columns of [catalogue]"
            )));
        }
        let precision = here.arithmetic().precision;
        let (error, tolerance) = (
            self.answer(moved)?.error(&self.answer(here)?),
            apart_on_a_gpu(precision),
        );
        // Not a number is not the same.
        if error <= tolerance {
            tracing::info!(device = %processor, error, tolerance, "the device says what the CPU says");
            return Ok(());
        }
        Err(RunError::Refused(format!(
            "compute.device: J_x and its covariance on `{processor}` in {precision} are {error:.1e} off those of the CPU, of the catalogue's first spectra; \
         up to {tolerance:.0e} is rounding. Another GPU, `precision = \"f64\"` or `device = \"cpu\"` may do"
        )))
    }
}

/// Values whose gaps have the mean of the others.
fn without_gaps<'a>(values: &'a [f64], good: &'a [bool]) -> impl Iterator<Item = f64> + 'a {
    let known = || values.iter().zip(good).filter(|(_, good)| **good);
    let mean = known().map(|(value, _)| value).sum::<f64>() / known().count().max(1) as f64;
    values
        .iter()
        .zip(good)
        .map(move |(value, good)| if *good { *value } else { mean })
}

/// What a precision makes of the spectra.
struct Answer {
    n: usize,
    k: usize,
    /// `[K, n, D]`
    jacobian: Vec<f64>,
    /// `[n, K, K]`
    covariance: Vec<f64>,
}

impl Answer {
    /// What `SHARE` of the stars stay below.
    fn error(&self, exact: &Self) -> f64 {
        let mut errors: Vec<f64> = (0..self.n).map(|star| self.error_of(star, exact)).collect();
        errors.sort_unstable_by(f64::total_cmp);
        let at = (SHARE * self.n as f64).ceil() as usize;
        errors.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// The largest error of a star, relative to the size of each label's gradient.
    fn error_of(&self, star: usize, exact: &Self) -> f64 {
        let (n, k) = (self.n, self.k);
        let d = self.jacobian.len() / (n * k).max(1);
        let worst = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
        let share = |apart: f64, size: f64| if apart == 0.0 { 0.0 } else { apart / size };
        let mut error = 0.0;
        for label in 0..k {
            let row = (label * n + star) * d..(label * n + star + 1) * d;
            let of = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let (found, right) = (&self.jacobian[row.clone()], &exact.jacobian[row]);
            let apart = of(&mut found.iter().zip(right).map(|(f, r)| f - r));
            error = worst(error, share(apart, of(&mut right.iter().copied())));
        }
        let (found, right) = (
            &self.covariance[star * k * k..][..k * k],
            &exact.covariance[star * k * k..][..k * k],
        );
        for at in 0..k * k {
            let size = (right[at / k * (k + 1)] * right[at % k * (k + 1)]).sqrt();
            error = worst(error, share((found[at] - right[at]).abs(), size));
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;
    use fisherflow_network::{Activation, Labels};
    use fisherflow_spectra::Simulation;
    use fisherflow_store::{OnBadObject, StoreOptions, Stores, simulated_columns, write_simulated};

    use super::*;

    /// `[pixels, 6, 2]`, the first label times a factor.
    fn network(pixels: usize, precision: Precision, seed: u64, factor: f64) -> Network {
        let names = ["a", "b"].map(str::to_owned).to_vec();
        let mut labels = Labels::unscaled(names, vec![String::new(); 2]);
        labels.scale[0] = factor;
        let arithmetic = Arithmetic { precision, threads: 1 };
        let network = Network::he_normal(
            &[pixels, 6, 2],
            Activation::Tanh,
            labels,
            &[0.3],
            &[0.5],
            seed,
            arithmetic,
        );
        network.unwrap().on(&Device::Cpu).unwrap()
    }

    #[test]
    fn a_processor_that_says_something_else_is_refused() {
        let (pixels, n) = (9, 5);
        let spectra = Spectra {
            flux: (0..n * pixels).map(|i| (i as f64).sin()).collect(),
            variance: (0..n * pixels).map(|i| 0.1 + (i % 3) as f64).collect(),
        };
        for precision in [Precision::F32, Precision::F64] {
            let here = network(pixels, precision, 1, 1.0);
            let says = |moved: &Network| spectra.said_alike(Processor::Cuda, moved, &here);
            says(&here.clone().with_packed_weights()).unwrap();
            // Another network; the same, off by as much as products of a shorter type are.
            for moved in [
                network(pixels, precision, 2, 1.0),
                network(pixels, precision, 1, 1.0002),
            ] {
                let error = says(&moved).unwrap_err().to_string();
                assert!(
                    error.contains("on `cuda` in f") && error.contains("device = \"cpu\""),
                    "{error}"
                );
            }
        }
    }

    /// 80 spectra in objects of 5, less those of the first objects.
    fn simulated(folder: &Path, left_out: usize) -> Catalogue {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let uri = folder.to_str().unwrap();
        write_simulated(&stores, uri, &Simulation::new(20, 7), 80, 5).unwrap();
        let objects: Vec<String> = (0..left_out)
            .map(|part| format!("{uri}/part-{part:05}.parquet"))
            .collect();
        let catalogue = Catalogue::open(&stores, uri, &simulated_columns(), OnBadObject::Fail).unwrap();
        catalogue.excluding(&objects).unwrap()
    }

    #[test]
    fn rows_are_looked_for_beyond_row_groups_that_have_none() {
        let folder = tempfile::tempdir().unwrap();
        let (here, moved) = (network(20, Precision::F32, 1, 1.0), network(20, Precision::F32, 2, 1.0));
        for (left_out, found) in [(0, SPECTRA), (2, SPECTRA), (15, 5)] {
            let catalogue = simulated(&folder.path().join(left_out.to_string()), left_out);
            assert_eq!(Spectra::read(&catalogue).unwrap().flux.len(), 20 * found, "{left_out}");
            as_on_the_cpu(Processor::Cuda, &here, &here, &catalogue).unwrap();
            let error = as_on_the_cpu(Processor::Cuda, &moved, &here, &catalogue).unwrap_err();
            assert!(error.to_string().contains("off those of the CPU"), "{error}");
        }
    }

    #[test]
    fn what_nothing_can_be_tried_on_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = simulated(folder.path(), 16);
        let here = network(20, Precision::F32, 1, 1.0);
        let error = as_on_the_cpu(Processor::Cuda, &here, &here, &catalogue).unwrap_err();
        assert!(
            error.to_string().contains("no spectrum of the catalogue is usable"),
            "{error}"
        );
        for precision in [Precision::Bf16, Precision::Bf16x3] {
            let asked = Arithmetic { precision, threads: 1 };
            let taken = exact_enough(asked, &catalogue, |_| unreachable!("there is nothing to try"));
            assert_eq!(taken.unwrap(), Precision::F32);
        }
    }
}
