//! What must not change, or change by a known factor, when a run's inputs are changed in a known way; for every structure.
//!
//! | change | consequence |
//! | --- | --- |
//! | rows in another order, in other objects | sums and covariances the same to rounding |
//! | every star m times | sums times m; with m times the prior, the weights' part over m |
//! | hidden units in another order | covariances the same |
//! | the input's normalisation folded into the first layer | the same without a prior, which would mean other weights |
//! | label k times s_k | covariances times s_k s_l |
//! | one pixel more, masked everywhere, that says nothing | the same |
//! | photon noise times c | photons' part times c^2 |

use std::collections::BTreeMap;
use std::path::Path;

use fisherflow_tests::{PlainNetwork, RunFile, Spectrum, Table, data_files, fisherflow, run, simulated, write_objects};

/// Every structure that a run may hold all layers in, but `low_rank`: its iteration begins at random vectors, which know the order of the
/// weights.
const STRUCTURES: [&str; 6] = ["full", "block", "kfac", "ekfac", "diagonal", "dual"];
const PIXELS: usize = 8;
const K: usize = 3;
const PRIOR: f64 = 2.0;
const NOISE: [[f64; K]; K] = [[2500.0, 1.0, 0.0], [1.0, 0.04, 0.002], [0.0, 0.002, 0.01]];
/// Relative, of the parts that are plain sums.
const EXACT: f64 = 1e-9;
/// Of what is estimated from held-out residuals: a likelihood is climbed until nothing changes that can be seen in its value.
const ESTIMATED: f64 = 1e-5;

/// A run's inputs.
#[derive(Clone)]
struct Inputs {
    network: PlainNetwork,
    spectra: Vec<Spectrum>,
    /// Rows of an object.
    rows: usize,
    structure: &'static str,
    /// Label units; `None`: from the held-out residuals.
    noise: Option<[[f64; K]; K]>,
    holdout_fraction: f64,
    prior: f64,
}

/// What a run found.
struct Found {
    /// By id: labels, and the three parts of the covariance.
    stars: BTreeMap<String, [Vec<f64>; 4]>,
    /// By file and factor: the matrices of `posterior/hessian/` that are sums over spectra; `ekfac` leaves eigenpairs there, `dual` nothing.
    sums: BTreeMap<(String, String), Vec<f64>>,
}

impl Inputs {
    fn new(structure: &'static str) -> Self {
        Self {
            network: PlainNetwork::random(&[PIXELS, 5, 4, K], "tanh", 3),
            spectra: simulated(PIXELS, 0, 160),
            rows: 40,
            structure,
            noise: Some(NOISE),
            holdout_fraction: 0.25,
            prior: PRIOR,
        }
    }

    fn run(&self) -> Found {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        self.network.write(&folder.join("network.safetensors"));
        write_objects(&folder.join("catalogue"), &self.spectra, self.rows);
        let mut run_file = RunFile::new(folder, "out");
        run_file.curvature = format!("structure = \"{}\"", self.structure);
        let covariance = self.noise.map(|noise| format!("covariance = {noise:?}\n"));
        run_file.noise = format!(
            "{}holdout_fraction = {:?}",
            covariance.unwrap_or_default(),
            self.holdout_fraction
        );
        run_file.compute = "precision = \"f64\"\nbatch = 16\ngroup = 50".to_owned();
        let toml = run_file.toml().replace(
            "[prior]\nprecision = 2.0",
            &format!("[prior]\nprecision = {:?}", self.prior),
        );
        let file = folder.join("run.toml");
        std::fs::write(&file, toml).unwrap();
        run(fisherflow().arg("run").arg(&file)).expect_done();
        let found = Found::read(&folder.join("out"));
        assert_eq!(found.sums.is_empty(), matches!(self.structure, "ekfac" | "dual"));
        found
    }
}

impl Found {
    fn read(output: &Path) -> Self {
        let table = Table::read(&output.join("predictions"));
        let star = |row| {
            let labels = ["teff", "logg", "fe_h"].map(|label| table.number(label, row)).to_vec();
            let [flux, weights, intrinsic] =
                ["cov_flux", "cov_weights", "cov_intrinsic"].map(|part| table.list(part, row));
            (table.text("id", row), [labels, flux, weights, intrinsic])
        };
        let stars: BTreeMap<_, _> = (0..table.len()).map(star).collect();
        assert_eq!(stars.len(), table.len());
        let mut sums: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for file in data_files(output)
            .into_iter()
            .filter(|f| f.starts_with("posterior/hessian/"))
        {
            let matrices = Table::read(&output.join(&file));
            for row in 0..matrices.len() {
                let key = (file.clone(), matrices.text("factor", row));
                if key.1.contains("eigenv") {
                    continue;
                }
                sums.entry(key).or_default().extend(matrices.list("values", row));
            }
        }
        Self { stars, sums }
    }

    /// These parts of each star's answer are `change` of those of `before`.
    fn check(&self, before: &Self, parts: &[Part], change: impl Fn(Part, usize, f64) -> f64) {
        for (id, star) in &self.stars {
            for &part in parts {
                let (found, before) = (&star[part as usize], &before.stars[id][part as usize]);
                let expected: Vec<f64> = before.iter().enumerate().map(|(at, v)| change(part, at, *v)).collect();
                // An element is as exact as its label's own scale: on the diagonal for covariances.
                let scale = |at: usize| match part {
                    Part::Labels => expected[at].abs(),
                    _ => (expected[at / K * (K + 1)] * expected[at % K * (K + 1)]).sqrt(),
                };
                for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let apart = (found - expected).abs();
                    assert!(
                        apart <= part.tolerance() * scale(at),
                        "{id} {part:?} {at}: {found:e}, expected {expected:e}"
                    );
                }
            }
        }
    }

    /// The sums are those of `before` times a factor.
    fn check_sums(&self, before: &Self, tolerance: f64, factor: f64) {
        assert_eq!(
            self.sums.keys().collect::<Vec<_>>(),
            before.sums.keys().collect::<Vec<_>>()
        );
        for (key, found) in &self.sums {
            let before = &before.sums[key];
            let size = before.iter().map(|v| v * v).sum::<f64>().sqrt();
            let apart = found
                .iter()
                .zip(before)
                .map(|(f, b)| (f - factor * b).powi(2))
                .sum::<f64>();
            assert!(
                apart.sqrt() <= tolerance * factor * size,
                "{key:?}: {:e}",
                apart.sqrt() / size
            );
        }
    }
}

/// What is said of a star; covariances are `[K, K]`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Labels,
    Flux,
    Weights,
    Intrinsic,
}

impl Part {
    fn tolerance(self) -> f64 {
        match self {
            Self::Intrinsic => ESTIMATED,
            _ => EXACT,
        }
    }
}

const ALL: [Part; 4] = [Part::Labels, Part::Flux, Part::Weights, Part::Intrinsic];

fn same(_: Part, _: usize, value: f64) -> f64 {
    value
}

#[test]
fn the_order_of_the_rows_does_not_matter() {
    for structure in STRUCTURES {
        let mut inputs = Inputs::new(structure);
        let before = inputs.run();
        let n = inputs.spectra.len();
        inputs.spectra = (0..n).map(|at| inputs.spectra[(at * 77 + 5) % n].clone()).collect();
        inputs.rows = 23;
        let after = inputs.run();
        assert_eq!(after.stars.len(), n);
        after.check(&before, &ALL, same);
        after.check_sums(&before, 1e-12, 1.0);
    }
}

#[test]
fn copies_of_every_star_are_so_many_times_the_sums() {
    const COPIES: usize = 3;
    for structure in STRUCTURES {
        let mut inputs = Inputs::new(structure);
        inputs.holdout_fraction = 0.0;
        let before = inputs.run();
        let once = inputs.spectra.clone();
        for copy in 1..COPIES {
            inputs.spectra.extend(once.iter().cloned().map(|mut star| {
                star.id = star.id.map(|id| format!("{id} again {copy}"));
                star
            }));
        }
        inputs.prior = PRIOR * COPIES as f64;
        let mut after = inputs.run();
        // Kronecker factors are sums too, each over three times the stars.
        after.check_sums(&before, 1e-12, COPIES as f64);
        after.stars.retain(|id, _| before.stars.contains_key(id));
        assert_eq!(after.stars.len(), once.len());
        after.check(&before, &ALL, |part, _, value| match part {
            Part::Weights => value / COPIES as f64,
            _ => value,
        });
    }
}

#[test]
fn hidden_units_in_another_order_are_the_same_network() {
    for structure in STRUCTURES {
        let mut inputs = Inputs::new(structure);
        let before = inputs.run();
        let order = [3, 0, 4, 2, 1];
        let [first, second, ..] = &mut inputs.network.layers[..] else {
            panic!("three layers")
        };
        first.weight = order.map(|unit| first.weight[unit].clone()).to_vec();
        first.bias = order.map(|unit| first.bias[unit]).to_vec();
        for row in &mut second.weight {
            *row = order.map(|unit| row[unit]).to_vec();
        }
        inputs.run().check(&before, &ALL, same);
    }
}

#[test]
fn a_folded_normalisation_is_the_same_network() {
    for structure in STRUCTURES {
        let mut inputs = Inputs::new(structure);
        // An isotropic prior of the folded weights is another prior; without one the posterior does not know its coordinates, unless its
        // structure does: a diagonal is one of certain weights.
        // So is `ekfac`, of certain bases; `dual` needs a prior.
        let knows_coordinates = matches!(structure, "diagonal" | "ekfac" | "dual");
        inputs.prior = if knows_coordinates { PRIOR } else { 0.0 };
        for (pixel, scale) in inputs.network.input_scale.iter_mut().enumerate() {
            *scale = 0.3 + 0.05 * pixel as f64;
        }
        // Spectra without any likeness, so that they determine every weight.
        for (star, spectrum) in inputs.spectra.iter_mut().enumerate() {
            for (pixel, flux) in spectrum.flux.as_mut().unwrap().iter_mut().enumerate() {
                *flux = 1.0 + 0.5 * ((star * star + 1) as f32 * (pixel + 1) as f32 * 0.618).sin();
            }
        }
        let before = inputs.run();
        let PlainNetwork {
            layers,
            input_mean,
            input_scale,
            ..
        } = &mut inputs.network;
        let first = &mut layers[0];
        for (row, bias) in first.weight.iter_mut().zip(&mut first.bias) {
            for ((weight, mean), scale) in row.iter_mut().zip(input_mean.iter()).zip(input_scale.iter()) {
                *weight /= scale;
                *bias -= *weight * mean;
            }
        }
        input_mean.fill(0.0);
        input_scale.fill(1.0);
        let parts = if knows_coordinates { &ALL[..2] } else { &ALL };
        inputs.run().check(&before, parts, same);
    }
}

#[test]
fn labels_in_other_units_have_covariances_in_those_units() {
    const SCALE: [f64; K] = [10.0, 0.5, 3.0];
    for structure in STRUCTURES {
        let mut inputs = Inputs::new(structure);
        let before = inputs.run();
        for star in &mut inputs.spectra {
            for (label, scale) in star.labels.iter_mut().zip(SCALE) {
                *label = label.map(|value| value * scale);
            }
        }
        let PlainNetwork {
            label_mean,
            label_scale,
            ..
        } = &mut inputs.network;
        for (value, scale) in label_mean
            .iter_mut()
            .zip(SCALE)
            .chain(label_scale.iter_mut().zip(SCALE))
        {
            *value *= scale;
        }
        inputs.noise = Some(std::array::from_fn(|i| {
            std::array::from_fn(|j| NOISE[i][j] * SCALE[i] * SCALE[j])
        }));
        inputs.run().check(&before, &ALL, |part, at, value| match part {
            Part::Labels => value * SCALE[at],
            _ => value * SCALE[at / K] * SCALE[at % K],
        });
    }
}

/// A pixel beside one that is exactly `input_mean` in every star is masked in all of them: it takes that mean, and no variance, so its
/// input is 0 whatever its weights are, and whatever stands under the mask.
#[test]
fn a_dead_pixel_changes_nothing() {
    for structure in STRUCTURES {
        let mut inputs = Inputs::new(structure);
        for star in &mut inputs.spectra {
            star.flux.as_mut().unwrap()[PIXELS - 1] = 1.0;
        }
        let before = inputs.run();
        let mut seen = Vec::new();
        for under_the_mask in [0.0_f32, 7e8] {
            let mut dead = inputs.clone();
            for star in &mut dead.spectra {
                star.flux.as_mut().unwrap().push(under_the_mask);
                star.ivar.as_mut().unwrap().push(0.0);
            }
            for (unit, row) in dead.network.layers[0].weight.iter_mut().enumerate() {
                row.push(unit as f64 - 2.5);
            }
            dead.network.input_mean.push(1.0);
            dead.network.input_scale.push(0.1);
            let after = dead.run();
            after.check(&before, &ALL, same);
            seen.push(after);
        }
        assert!(
            seen[0].stars == seen[1].stars && seen[0].sums == seen[1].sums,
            "{structure}"
        );
    }
}

#[test]
fn larger_photon_noise_is_a_larger_part_of_the_photons() {
    for structure in STRUCTURES {
        let mut inputs = Inputs::new(structure);
        let before = inputs.run();
        for star in &mut inputs.spectra {
            for ivar in star.ivar.as_mut().unwrap() {
                *ivar /= 4.0;
            }
        }
        // The photons' part is taken out of the intrinsic one, which is not compared.
        inputs.run().check(&before, &ALL[..3], |part, _, value| match part {
            Part::Flux => 4.0 * value,
            _ => value,
        });
    }
}
