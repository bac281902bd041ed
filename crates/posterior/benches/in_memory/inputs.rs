//! Network, spectra and posterior: those of a folder that other software reads too, or simulated ones.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use fisherflow_curvature::{BlockCurvature, CurvatureForm, KroneckerBases, Matrix, StructureKind, plan_blocks};
use fisherflow_network::{Activation, Arithmetic, DenseShape, Description, Labels, Network};
use fisherflow_posterior::{BlockInfo, Factor, NamedMatrix, Precision, invert, precision_from_matrices};
use fisherflow_spectra::Simulation;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;

use crate::arguments::Arguments;

/// The prior precision of the posterior at hand.
pub(crate) const PRIOR_PRECISION: f64 = 1.0;

/// Length of the vector that sums are multiplied by where they are compared.
const PROBE: usize = 8192;

/// What every kind of work starts from.
pub(crate) struct Inputs {
    pub(crate) network: Network,
    pub(crate) batches: Vec<Batch>,
    /// Of each dense layer.
    sides: Vec<Sides>,
    /// `[PROBE]`.
    pub(crate) probe: Vec<f64>,
}

/// Some spectra, row-major, as a run decodes them.
pub(crate) struct Batch {
    /// `[n, D]`, flux units.
    pub(crate) flux: Vec<f64>,
    /// `[n, D]`, flux units squared.
    pub(crate) variance: Vec<f64>,
}

/// A layer's eigenbases, given by a unit vector v each as `I - 2 v v^T`, and the eigenvalues `t_i s_j` in them: orthogonal matrices without a
/// zero that take no eigenproblem to make.
struct Sides {
    a_reflector: Vec<f64>,
    g_reflector: Vec<f64>,
    a_eigenvalues: Vec<f64>,
    g_eigenvalues: Vec<f64>,
}

impl Inputs {
    pub(crate) fn load(arguments: &Arguments) -> Result<Self, Box<dyn Error>> {
        let arithmetic = Arithmetic {
            precision: arguments.precision,
            threads: arguments.threads,
        };
        match &arguments.inputs {
            Some(folder) => Self::of_folder(folder, arguments, arithmetic),
            None => Self::simulated(arguments, arithmetic),
        }
    }

    fn of_folder(folder: &Path, arguments: &Arguments, arithmetic: Arithmetic) -> Result<Self, Box<dyn Error>> {
        let weights = std::fs::read(folder.join("network.safetensors"))?;
        let n_layers = SafeTensors::deserialize(&weights)?.len() / 2;
        let layers = (0..2 * n_layers - 1).map(|i| if i % 2 == 0 { "dense" } else { "relu" }.to_owned());
        let said = Description {
            layers: Some(layers.collect()),
            ..Description::default()
        };
        let network = Network::from_safetensors(&weights, &said, arithmetic)?.with_packed_weights();
        let spectra = std::fs::read(folder.join("spectra.safetensors"))?;
        let spectra = SafeTensors::deserialize(&spectra)?;
        let n = spectra.tensor("flux")?.shape()[0];
        if n < arguments.spectra {
            return Err(format!(
                "{} has {n} spectra, and {} are asked for",
                folder.display(),
                arguments.spectra
            )
            .into());
        }
        let (pixels, per_batch) = (network.n_inputs(), arguments.batch);
        let (flux, sigma) = (spectra.tensor("flux")?, spectra.tensor("sigma")?);
        let rows = |data: &[u8], first: usize, last: usize| f32s(&data[4 * first * pixels..4 * last * pixels]);
        let batches = (0..arguments.spectra).step_by(per_batch).map(|first| {
            let last = (first + per_batch).min(arguments.spectra);
            Batch {
                flux: rows(flux.data(), first, last),
                variance: rows(sigma.data(), first, last).iter().map(|s| s * s).collect(),
            }
        });
        let batches = batches.collect();
        let posterior = std::fs::read(folder.join("posterior.safetensors"))?;
        let posterior = SafeTensors::deserialize(&posterior)?;
        let numbers = |name: &str| -> Result<Vec<f64>, Box<dyn Error>> { Ok(f64s(posterior.tensor(name)?.data())) };
        let sides = |shape: &DenseShape| -> Result<Sides, Box<dyn Error>> {
            Ok(Sides {
                a_reflector: numbers(&format!("{}.a_reflector", shape.name))?,
                g_reflector: numbers(&format!("{}.g_reflector", shape.name))?,
                a_eigenvalues: numbers(&format!("{}.a_eigenvalues", shape.name))?,
                g_eigenvalues: numbers(&format!("{}.g_eigenvalues", shape.name))?,
            })
        };
        Ok(Self {
            sides: network.dense_layers().iter().map(sides).collect::<Result<_, _>>()?,
            probe: numbers("probe")?,
            batches,
            network,
        })
    }

    fn simulated(arguments: &Arguments, arithmetic: Arithmetic) -> Result<Self, Box<dyn Error>> {
        let [pixels, .., n_labels] = arguments.widths[..] else {
            return Err("a network needs two widths".into());
        };
        let names = (0..n_labels).map(|k| format!("label_{k}")).collect();
        let labels = Labels::unscaled(names, vec![String::new(); n_labels]);
        let network = Network::he_normal(
            &arguments.widths,
            Activation::Relu,
            labels,
            &[0.0],
            &[1.0],
            1,
            arithmetic,
        )?;
        let network = network.with_packed_weights();
        let simulation = Simulation::new(pixels, 1);
        let batches = (0..arguments.spectra).step_by(arguments.batch).map(|first| {
            let (mut flux, mut variance) = (Vec::new(), Vec::new());
            for i in first..(first + arguments.batch).min(arguments.spectra) {
                let spectrum = simulation.spectrum(i as u64);
                flux.extend(spectrum.flux.iter().map(|&v| f64::from(v)));
                variance.extend(spectrum.sigma.iter().map(|&s| f64::from(s) * f64::from(s)));
            }
            Batch { flux, variance }
        });
        let batches = batches.collect();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut random = |n: usize, low: f64| -> Vec<f64> { (0..n).map(|_| rng.random_range(low..1.0)).collect() };
        let sides = network.dense_layers().iter().map(|shape| Sides {
            a_reflector: unit(random(shape.columns(), -1.0)),
            g_reflector: unit(random(shape.outputs, -1.0)),
            a_eigenvalues: random(shape.columns(), 0.0),
            g_eigenvalues: random(shape.outputs, 0.0),
        });
        Ok(Self {
            sides: sides.collect(),
            probe: random(PROBE, -1.0),
            batches,
            network,
        })
    }

    /// Number of spectra of a pass.
    pub(crate) fn n_spectra(&self) -> usize {
        self.batches.iter().map(|batch| batch.flux.len()).sum::<usize>() / self.network.n_inputs().max(1)
    }

    /// The given eigenbases of a layer.
    pub(crate) fn bases(&self, layer: usize) -> Arc<KroneckerBases> {
        let sides = &self.sides[layer];
        Arc::new(KroneckerBases::new(
            reflection(&sides.a_reflector),
            reflection(&sides.g_reflector),
        ))
    }

    /// The posterior of all layers in the given eigenbases: `kfac`, read back as from a run's output.
    pub(crate) fn posterior(&self) -> Result<Vec<Box<dyn Precision>>, Box<dyn Error>> {
        let plans = |structure| {
            plan_blocks(
                self.network.dense_layers(),
                structure,
                &BTreeMap::new(),
                Default::default(),
            )
        };
        let (threads, mut posterior) = (self.network.arithmetic().threads, Vec::new());
        for (plan, sides) in plans(StructureKind::Kfac)?.iter().zip(&self.sides) {
            let row = |values: &[f64]| Matrix {
                rows: 1,
                cols: values.len(),
                values: values.to_vec(),
            };
            // What no spectrum was summed for, with the name and the size of the block.
            let nothing = BlockCurvature {
                n_spectra: 0,
                form: CurvatureForm::Diagonal(Matrix {
                    rows: plan.shapes[0].outputs,
                    cols: plan.shapes[0].columns(),
                    values: vec![0.0; plan.n_weights()],
                }),
            };
            let diagonal = plans(StructureKind::Diagonal)?.swap_remove(plan.layers[0]);
            let info = BlockInfo {
                structure: StructureKind::Kfac,
                n_terms: 1,
                ..invert(&diagonal, nothing, PRIOR_PRECISION, threads)?.info().clone()
            };
            let matrices = [
                (Factor::AEigenvectors, reflection(&sides.a_reflector)),
                (Factor::AEigenvalues, row(&sides.a_eigenvalues)),
                (Factor::GEigenvectors, reflection(&sides.g_reflector)),
                (Factor::GEigenvalues, row(&sides.g_eigenvalues)),
            ];
            let layer = plan.name();
            let named = matrices.map(|(factor, matrix)| NamedMatrix {
                layer: layer.clone(),
                factor,
                matrix,
            });
            posterior.push(precision_from_matrices(
                plan,
                named.into(),
                info,
                self.network.arithmetic().rotations(),
            )?);
        }
        Ok(posterior)
    }
}

fn f32s(bytes: &[u8]) -> Vec<f64> {
    let values = bytes.as_chunks::<4>().0;
    values
        .iter()
        .map(|&value| f64::from(f32::from_le_bytes(value)))
        .collect()
}

fn f64s(bytes: &[u8]) -> Vec<f64> {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&value| f64::from_le_bytes(value))
        .collect()
}

fn unit(mut vector: Vec<f64>) -> Vec<f64> {
    let norm = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
    vector.iter_mut().for_each(|v| *v /= norm);
    vector
}

/// `I - 2 v v^T`.
fn reflection(v: &[f64]) -> Matrix {
    let n = v.len();
    let mut values: Vec<f64> = v.iter().flat_map(|x| v.iter().map(move |y| -2.0 * x * y)).collect();
    values.iter_mut().step_by(n + 1).for_each(|value| *value += 1.0);
    Matrix {
        rows: n,
        cols: n,
        values,
    }
}
