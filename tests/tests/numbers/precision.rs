//! What each arithmetic of `[compute] precision` leaves of the numbers that users see, against the same run in f64: simulated spectra with a
//! continuum near 1, a network trained on them, the prior precision that their evidence finds.
//!
//! | precision | J_x and J_x C_flux J_x^T | weights' covariance, marginal variance of every weight |
//! | --- | --- | --- |
//! | `f32` | 3e-5 | 1e-3 |
//! | `auto` | 3e-5 | 1e-3 |
//! | `bf16x3` | 3e-5 | 1e-3 |
//! | `bf16` | no promise, and the documentation says so | |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fisherflow_tests::{Ended, PlainNetwork, RunFile, Table, counts, data_files, fisherflow, run};

const K: usize = 3;
/// Of J_x and its covariance, relative to the size of a label's gradient: in f32, which `auto` is too, and in three products of bf16.
const DERIVATIVES: [(&str, f64); 3] = [("f32", 3e-5), ("auto", 3e-5), ("bf16x3", 3e-5)];
/// Of every covariance and variance.
const VARIANCES: f64 = 1e-3;

struct Place {
    folder: tempfile::TempDir,
}

/// What users see of a run: by star J_x `[K, D]` and both covariances `[K, K]`; by file the variances of its weights.
struct Seen {
    jacobians: BTreeMap<String, Vec<f64>>,
    flux: BTreeMap<String, Vec<f64>>,
    weights: BTreeMap<String, Vec<f64>>,
    variances: BTreeMap<String, Vec<f64>>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let simulate = ["--spectra", "750", "--pixels", "700", "--objects", "3"];
        run(fisherflow()
            .arg("simulate")
            .arg(folder.path().join("catalogue"))
            .args(simulate))
        .expect_done();
        let place = Self { folder };
        run(fisherflow()
            .arg("train")
            .arg(place.run_file("train", "kfac", "f64", "1.0")))
        .expect_done();
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Smooth activations: at the kink of a `relu` either slope is right, and rounding decides.
    fn run_file(&self, name: &str, structure: &str, precision: &str, prior: &str) -> PathBuf {
        let mut run_file = RunFile::new(self.path(), name);
        run_file.curvature = format!("structure = \"{structure}\"");
        run_file.prior = format!("precision = {prior}");
        run_file.compute = format!("precision = \"{precision}\"\nbatch = 128\ngroup = 250");
        let toml = of_simulated(&run_file);
        let more = "\n[certificate]\nspectra = 0\nfull_pass = false\n\
                    \n[train]\nhidden = [64, 32]\nactivation = \"gelu\"\nepochs = 30\nbatch = 32\nlearning_rate = 0.002\nseed = 5\n";
        let file = self.path().join(format!("{name}.toml"));
        std::fs::write(&file, toml + more).unwrap();
        file
    }

    /// `None`: this CPU has no such arithmetic, which the run says.
    fn run(&self, structure: &str, precision: &str, prior: &str) -> Option<Seen> {
        let name = format!("{structure}-{precision}");
        let ended = run(fisherflow()
            .arg("run")
            .arg(self.run_file(&name, structure, precision, prior))
            .args(["-w", "2"]));
        if precision.starts_with("bf16") && lacks_kernel(&ended) {
            println!("skipped: {precision} needs AMX or AVX512_BF16");
            return None;
        }
        ended.expect_done();
        Some(Seen::read(&self.path().join(&name)))
    }

    /// The prior precision that the evidence of the run in f64 takes.
    fn by_evidence(&self) -> String {
        run(fisherflow()
            .arg("run")
            .arg(self.run_file("evidence", "kfac", "f64", "\"evidence\"")))
        .expect_done();
        let blocks = Table::read(&self.path().join("evidence/posterior/blocks.parquet"));
        format!("{:e}", blocks.number("prior_precision", 0))
    }
}

/// A run file over the columns of `fisherflow simulate`.
fn of_simulated(run_file: &RunFile) -> String {
    run_file
        .toml()
        .replace("ivar = \"ivar\"", "sigma = \"flux_err\"")
        .replace("keep_columns = [\"visit\"]\n", "")
}

/// Whether a run was refused for instructions that this CPU has not got.
fn lacks_kernel(ended: &Ended) -> bool {
    ended.code == Some(3) && ended.stderr.contains("needs a kernel that cannot be had here")
}

impl Seen {
    fn read(output: &Path) -> Self {
        let predictions = Table::read(&output.join("predictions"));
        let part = |column: &str| -> BTreeMap<String, Vec<f64>> {
            (0..predictions.len())
                .map(|row| (predictions.text("id", row), predictions.list(column, row)))
                .collect()
        };
        let mut jacobians: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let rows = Table::read(&output.join("jacobians"));
        for row in 0..rows.len() {
            let of_star = jacobians.entry(rows.text("id", row)).or_default();
            of_star.extend(rows.list("jacobian", row));
        }
        let variances = data_files(output)
            .into_iter()
            .filter(|file| file.starts_with("posterior/marginal_variance/"))
            .map(|file| {
                let table = Table::read(&output.join(&file));
                let values = (0..table.len())
                    .map(|row| table.number("std_error", row).powi(2))
                    .collect();
                (file, values)
            })
            .collect();
        Self {
            jacobians,
            flux: part("cov_flux"),
            weights: part("cov_weights"),
            variances,
        }
    }

    /// The largest errors of what `self` says, against `exact`: of J_x, of both covariances, of the variances of weights.
    fn errors(&self, exact: &Self) -> [f64; 4] {
        let worst = |errors: &mut dyn Iterator<Item = f64>| errors.fold(0.0_f64, |worst, error| worst.max(error));
        let covariance = |found: &BTreeMap<String, Vec<f64>>, exact: &BTreeMap<String, Vec<f64>>| {
            worst(&mut exact.iter().flat_map(|(id, exact)| {
                let found = &found[id];
                assert_eq!((found.len(), exact.len()), (K * K, K * K), "{id}");
                (0..K * K).map(move |at| {
                    let scale = (exact[at / K * (K + 1)] * exact[at % K * (K + 1)]).sqrt();
                    (found[at] - exact[at]).abs() / scale
                })
            }))
        };
        let jacobian = worst(&mut exact.jacobians.iter().flat_map(|(id, exact)| {
            let pixels = exact.len() / K;
            let labels = exact.chunks_exact(pixels).zip(self.jacobians[id].chunks_exact(pixels));
            labels.map(|(exact, found)| {
                let apart = exact.iter().zip(found).map(|(e, f)| (e - f).powi(2)).sum::<f64>();
                (apart / exact.iter().map(|e| e * e).sum::<f64>()).sqrt()
            })
        }));
        let variance = worst(&mut exact.variances.iter().flat_map(|(file, exact)| {
            let found = &self.variances[file];
            assert_eq!(found.len(), exact.len(), "{file}");
            exact
                .iter()
                .zip(found)
                .map(|(exact, found)| (found / exact - 1.0).abs())
        }));
        [
            jacobian,
            covariance(&self.flux, &exact.flux),
            covariance(&self.weights, &exact.weights),
            variance,
        ]
    }
}

#[test]
fn every_arithmetic_keeps_what_it_promises() {
    let place = Place::new();
    let prior = place.by_evidence();
    println!("prior precision by evidence: {prior}");
    for structure in ["kfac", "ekfac", "diagonal", "dual"] {
        let exact = place.run(structure, "f64", &prior).unwrap();
        assert_eq!(exact.flux.len(), 750);
        assert!(
            exact
                .variances
                .values()
                .flatten()
                .any(|v| *v < 0.5 / prior.parse::<f64>().unwrap())
        );
        for precision in ["f32", "auto", "bf16x3", "bf16"] {
            // Of bf16 J_x alone is looked at, in which no structure shows.
            if precision == "bf16" && structure != "kfac" {
                continue;
            }
            let Some(found) = place.run(structure, precision, &prior) else {
                continue;
            };
            let errors = found.errors(&exact);
            println!(
                "{structure:8} {precision:6} J_x {:.1e}  photons {:.1e}  weights {:.1e}  variances {:.1e}",
                errors[0], errors[1], errors[2], errors[3]
            );
            // A comparison that finds nothing compares nothing.
            assert!(errors[0] > 0.0 && errors[2] > 0.0);
            let Some((_, derivatives)) = DERIVATIVES.into_iter().find(|(of, _)| *of == precision) else {
                assert!(errors[0] > 3e-4, "one product of bf16 is not as exact as three");
                continue;
            };
            assert!(
                errors[0] < derivatives && errors[1] < derivatives,
                "{structure} {precision}: {errors:?}"
            );
            assert!(
                errors[2] < VARIANCES && errors[3] < VARIANCES,
                "{structure} {precision}: {errors:?}"
            );
        }
    }
}

/// Pairs of units that all but cancel: what is left of them is lost in bf16, and not in f32.
#[test]
fn where_bf16_is_not_exact_enough_the_run_says_so_and_is_that_of_f32() {
    let folder = tempfile::tempdir().unwrap();
    let simulate = ["--spectra", "200", "--pixels", "60", "--objects", "2"];
    run(fisherflow()
        .arg("simulate")
        .arg(folder.path().join("catalogue"))
        .args(simulate))
    .expect_done();
    let mut network = PlainNetwork::random(&[60, 16, 3], "tanh", 3);
    for (cancels, slower) in [(false, false), (true, true)] {
        if cancels {
            for unit in 0..8 {
                let nearly = network.layers[0].weight[2 * unit].iter().enumerate();
                network.layers[0].weight[2 * unit + 1] =
                    nearly.map(|(d, w)| w * (1.0 + 1e-4 * (d as f64).sin())).collect();
                network.layers[0].bias[2 * unit + 1] = network.layers[0].bias[2 * unit];
                for label in &mut network.layers[1].weight {
                    label[2 * unit + 1] = -label[2 * unit];
                }
            }
        }
        network.write(&folder.path().join("network.safetensors"));
        let of = |precision: &str| {
            let name = format!("{precision}-{cancels}");
            let mut run_file = RunFile::new(folder.path(), &name);
            run_file.compute += &format!("\nprecision = \"{precision}\"");
            let file = folder.path().join(format!("{name}.toml"));
            std::fs::write(&file, of_simulated(&run_file)).unwrap();
            let ended = run(fisherflow().arg("run").arg(file));
            (ended, folder.path().join(name))
        };
        let (ended, found) = of("bf16x3");
        if lacks_kernel(&ended) {
            println!("skipped: bf16x3 needs AMX or AVX512_BF16");
            return;
        }
        assert_eq!(ended.code, Some(0), "{ended}");
        assert_eq!(ended.stderr.contains("not exact enough"), slower, "{ended}");
        let (plain, expected) = of("f32");
        plain.expect_done();
        let bytes = |output: &Path| -> Vec<(String, Vec<u8>)> {
            let read = |file: String| (file.clone(), std::fs::read(output.join(&file)).unwrap());
            data_files(output).into_iter().map(read).collect()
        };
        let (found, expected) = (bytes(&found), bytes(&expected));
        assert!(!expected.is_empty());
        assert!((found == expected) == slower, "cancels: {cancels}");
    }
}

/// Under next to no prior, what a star has outside the span of the spectra in the sums decides: one that is in them has nothing there but rounding.
#[test]
fn stars_that_whole_numbers_are_not_exact_enough_for_are_those_of_f32_and_said() {
    const IN_F32: i64 = 1 << 21;
    let folder = tempfile::tempdir().unwrap();
    let simulate = ["--spectra", "160", "--pixels", "700", "--objects", "2"];
    run(fisherflow()
        .arg("simulate")
        .arg(folder.path().join("catalogue"))
        .args(simulate))
    .expect_done();
    PlainNetwork::random(&[700, 32, 3], "tanh", 3).write(&folder.path().join("network.safetensors"));
    let of = |precision: &str, prior: &str| {
        let name = format!("{precision}-{prior}");
        let mut run_file = RunFile::new(folder.path(), &name);
        run_file.prior = format!("precision = {prior}");
        run_file.compute += &format!("\nprecision = \"{precision}\"");
        let file = folder.path().join(format!("{name}.toml"));
        std::fs::write(&file, of_simulated(&run_file)).unwrap();
        let ended = run(fisherflow().arg("run").arg(file));
        ended.expect_done();
        let output = folder.path().join(name);
        (ended, Table::read(&output.join("predictions")), counts(&output))
    };
    for (prior, some) in [("1.0", false), ("1e-7", true)] {
        let (ended, found, counts) = of("auto", prior);
        let (_, expected, of_f32) = of("f32", prior);
        let mut flagged = 0;
        for row in 0..found.len() {
            let is_flagged = found.whole("flags", row) & IN_F32 != 0;
            flagged += u64::from(is_flagged);
            let same = found.list("cov_weights", row) == expected.list("cov_weights", row);
            assert_eq!(same, is_flagged, "prior {prior}, row {row}");
            assert_eq!(expected.whole("flags", row) & IN_F32, 0);
        }
        println!("prior {prior}: {flagged} of {} in f32", found.len());
        assert_eq!((flagged > 0, flagged < found.len() as u64), (some, true), "{flagged}");
        assert_eq!(counts["predict_weights_in_f32"], flagged);
        assert_eq!(of_f32["predict_weights_in_f32"], 0);
        assert_eq!(ended.stdout.contains("WEIGHTS_IN_F32"), some, "{ended}");
    }
}
