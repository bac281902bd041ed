//! The noise: errors in variables against a computation by hand, and C_intrinsic by cell of label space.

use std::fs;
use std::path::Path;

use fisherflow_network::{InputJacobian, Network};
use fisherflow_spectra::{holdout_hash, is_held_out};
use fisherflow_tests::{
    LABELS, RunFile, Spectrum, Table, counts, digests, fisherflow, he_normal, manifest, network, run, simulated,
    toml_path, write_objects,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

const PIXELS: usize = 24;
const WIDTHS: [usize; 3] = [PIXELS, 6, 3];
const K: usize = 3;
const HELD_OUT: f64 = 0.25;

/// Spectra whose labels are the network's own predictions, with errors of these standard deviations.
fn labelled(network: &Network, first: u64, n: u64, sigma: impl Fn(&[f64]) -> [f64; K]) -> Vec<Spectrum> {
    let mut rng = ChaCha8Rng::seed_from_u64(first + 77);
    let mut spectra = simulated(PIXELS, first, n);
    for spectrum in &mut spectra {
        let predicted = predictions(network, spectrum);
        let sigma = sigma(&predicted);
        for k in 0..K {
            let z: f64 = StandardNormal.sample(&mut rng);
            spectrum.labels[k] = Some(predicted[k] + sigma[k] * z);
        }
    }
    spectra
}

fn flux(spectrum: &Spectrum) -> Vec<f64> {
    spectrum.flux.as_ref().unwrap().iter().copied().map(f64::from).collect()
}

fn predictions(network: &Network, spectrum: &Spectrum) -> Vec<f64> {
    let forward = network.forward(&flux(spectrum)).unwrap();
    forward.labels(network).unwrap()
}

/// Gives a pixel that the labels depend on an error that stands for "bad"; whether there is such a pixel.
fn spoil(network: &Network, spectrum: &mut Spectrum) -> bool {
    let labels = predictions(network, spectrum);
    let depends = |pixel: &usize| {
        let mut other = spectrum.clone();
        other.flux.as_mut().unwrap()[*pixel] += 1e-4;
        predictions(network, &other) != labels
    };
    let pixel = (0..PIXELS).find(depends);
    if let Some(pixel) = pixel {
        spectrum.ivar.as_mut().unwrap()[pixel] = 1e-20;
    }
    pixel.is_some()
}

fn is_out(spectrum: &Spectrum) -> bool {
    is_held_out(holdout_hash(spectrum.id.as_ref().unwrap()), HELD_OUT)
}

/// 240 spectra, of which every other one of those held out is spoilt, and the identifiers of these.
fn half_spoilt(network: &Network) -> (Vec<Spectrum>, Vec<Option<String>>) {
    let mut spectra = labelled(network, 0, 240, |_| [200.0, 0.5, 0.3]);
    let mut spoilt = Vec::new();
    for spectrum in spectra.iter_mut().filter(|spectrum| is_out(spectrum)).step_by(2) {
        if spoil(network, spectrum) {
            spoilt.push(spectrum.id.clone());
        }
    }
    (spectra, spoilt)
}

/// Writes 40 labelled stars to predict, of which every fourth is spoilt; the number of these.
fn write_spoilt_stars(folder: &Path, network: &Network) -> u64 {
    let mut stars = labelled(network, 5000, 40, |_| [200.0, 0.5, 0.3]);
    let every_fourth = stars.iter_mut().step_by(4);
    let spoilt: u64 = every_fourth.map(|star| u64::from(spoil(network, star))).sum();
    assert!(spoilt > 2, "{spoilt}");
    write_objects(&folder.join("stars"), &stars, 40);
    spoilt
}

fn run_file(folder: &Path, output: &str) -> RunFile {
    let mut run_file = RunFile::new(folder, output).predicting(folder, "stars");
    run_file.curvature = "structure = \"block\"".to_owned();
    run_file.compute += "\nprecision = \"f64\"";
    run_file
}

fn inverse(m: &[f64]) -> [f64; K * K] {
    let minor = |i: usize, j: usize| {
        let (a, b) = ((i + 1) % K, (i + 2) % K);
        let (c, d) = ((j + 1) % K, (j + 2) % K);
        m[a * K + c] * m[b * K + d] - m[a * K + d] * m[b * K + c]
    };
    let det: f64 = (0..K).map(|j| m[j] * minor(0, j)).sum();
    std::array::from_fn(|at| minor(at % K, at / K) / det)
}

/// Residual, photons' part `J_x C_flux J_x^T` (label units), and `[a; 1]` of the last layer.
fn by_hand(network: &Network, spectrum: &Spectrum) -> ([f64; K], [f64; K * K], Vec<f64>) {
    let forward = network.forward(&flux(spectrum)).unwrap();
    let backward = network.backward(&forward, InputJacobian::Wanted).unwrap();
    let jacobian: Vec<f64> = backward
        .input_jacobian
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    let ivar = spectrum.ivar.as_ref().unwrap();
    let part = std::array::from_fn(|at| {
        let pixels = ivar.iter().enumerate();
        pixels
            .map(|(d, ivar)| jacobian[at / K * PIXELS + d] * jacobian[at % K * PIXELS + d] / f64::from(*ivar))
            .sum()
    });
    let predicted = predictions(network, spectrum);
    let residual = std::array::from_fn(|k| spectrum.labels[k].unwrap() - predicted[k]);
    let mut a: Vec<f64> = backward.captures[1].input.flatten_all().unwrap().to_vec1().unwrap();
    a.push(1.0);
    (residual, part, a)
}

#[test]
fn errors_in_variables_weigh_as_a_computation_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &WIDTHS);
    let network = he_normal(&WIDTHS);
    let spectra = labelled(&network, 0, 240, |_| [200.0, 0.5, 0.3]);
    write_objects(&folder.join("catalogue"), &spectra, 60);
    write_objects(&folder.join("stars"), &simulated(PIXELS, 5000, 20), 20);
    let done = |output: &str, noise: &str, more: &[&str]| {
        let mut run_file = run_file(folder, output);
        run_file.noise = format!("holdout_fraction = {HELD_OUT}{noise}");
        run(fisherflow().arg("run").arg(run_file.write(folder, output)).args(more)).expect_done();
        manifest(&folder.join(output))["settings"].clone()
    };
    let settings = done("one", "\nerrors_in_variables = true", &[]);
    assert_eq!(settings["errors_in_variables"], true);
    let noise: Vec<f64> = serde_json::from_value(settings["noise_estimate"]["covariance"].clone()).unwrap();

    // R is stationary: sum over held-out stars of T^-1 - T^-1 r r^T T^-1, T = R + J_x C J_x^T, against the size of its own terms.
    let (mut slope, mut size) = ([0.0; K * K], [0.0; K]);
    let mut hessian = vec![0.0; (K * (WIDTHS[1] + 1)).pow(2)];
    let scale = &network.labels().scale;
    for spectrum in &spectra {
        let (residual, part, a) = by_hand(&network, spectrum);
        let total: Vec<f64> = noise.iter().zip(&part).map(|(r, f)| r + f).collect();
        let weight = inverse(&total);
        if is_out(spectrum) {
            let w: Vec<f64> = weight
                .chunks_exact(K)
                .map(|row| row.iter().zip(&residual).map(|(x, r)| x * r).sum())
                .collect();
            for at in 0..K * K {
                slope[at] += weight[at] - w[at / K] * w[at % K];
            }
            for k in 0..K {
                size[k] += weight[k * K + k];
            }
            continue;
        }
        // The last layer's rows of the Jacobian are e_k (x) [a; 1]; Lam in normalised label units.
        let p = K * a.len();
        for i in 0..p {
            for j in 0..p {
                let (k, l) = (i / a.len(), j / a.len());
                hessian[i * p + j] += weight[k * K + l] * scale[k] * scale[l] * a[i % a.len()] * a[j % a.len()];
            }
        }
    }
    for at in 0..K * K {
        let relative = slope[at].abs() / (size[at / K] * size[at % K]).sqrt();
        assert!(relative < 1e-6, "element {at} of the slope: {relative:e}");
    }
    let written = Table::read(&folder.join("one/posterior/hessian/block-001.parquet"));
    let p = written.len();
    let largest = hessian.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    for row in 0..p {
        let found = written.list("values", row);
        for (j, found) in found.iter().enumerate() {
            let error = (found - hessian[row * p + j]).abs() / largest;
            assert!(error < 1e-9, "row {row}, column {j}: {error:e}");
        }
    }

    done("four", "\nerrors_in_variables = true", &["-w", "4"]);
    assert_eq!(digests(&folder.join("four")), digests(&folder.join("one")));
    // The photons' part is out of R: it is smaller than without.
    let plain = done("plain", "", &[]);
    let variance = |settings: &serde_json::Value, k: usize| {
        settings["noise_estimate"]["covariance"][k * (K + 1)].as_f64().unwrap()
    };
    for k in 0..K {
        assert!(variance(&settings, k) < variance(&plain, k));
    }
    let label_precision = |output: &str| {
        let hessian = Table::read(&folder.join(output).join("posterior/hessian/block-001.parquet"));
        let said: serde_json::Value = serde_json::from_str(&hessian.metadata["fisherflow.convention"]).unwrap();
        said["label_precision"].as_str().unwrap().to_owned()
    };
    assert!(label_precision("plain").starts_with("Lam_n = (R + S_n)^-1, "));
    assert!(label_precision("one").starts_with("Lam_n = (R + S_n + J_x C_flux J_x^T)^-1 "));
    // And a catalogue of its own part in a prediction in the same pass has the same Hessian.
    let mut fused = run_file(folder, "fused");
    fused.predict = None;
    fused.noise = format!("holdout_fraction = {HELD_OUT}\nerrors_in_variables = true");
    run(fisherflow().arg("run").arg(fused.write(folder, "fused"))).expect_done();
    let fused = Table::read(&folder.join("fused/posterior/hessian/block-001.parquet"));
    for row in 0..p {
        assert_eq!(fused.list("values", row), written.list("values", row));
    }
}

#[test]
fn every_cell_has_its_own_scatter_and_a_star_that_of_its_prediction() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &WIDTHS);
    let network = he_normal(&WIDTHS);
    let mut predicted: Vec<f64> = simulated(PIXELS, 0, 400)
        .iter()
        .map(|spectrum| predictions(&network, spectrum)[0])
        .collect();
    predicted.sort_by(f64::total_cmp);
    // The upper edge leaves hardly any star above it.
    let (middle, upper) = (predicted[200], predicted[397]);
    let sigmas = [400.0, 4000.0];
    let sigma = |predicted: &[f64]| [sigmas[usize::from(predicted[0] >= middle)], 2.0, 1.0];
    write_objects(&folder.join("catalogue"), &labelled(&network, 0, 4000, sigma), 500);
    write_objects(&folder.join("stars"), &simulated(PIXELS, 50_000, 80), 40);
    let done = |output: &str, more: &[&str]| {
        let mut run_file = run_file(folder, output);
        run_file.curvature = "structure = \"diagonal\"".to_owned();
        run_file.compute = "batch = 64\ngroup = 500\nprecision = \"f64\"".to_owned();
        // A prior that leaves the weights next to nothing.
        run_file.prior = "precision = 1e9".to_owned();
        run_file.noise = format!("holdout_fraction = 0.5\n[noise.intrinsic_bins]\nteff = [{middle:?}, {upper:?}]");
        run(fisherflow().arg("run").arg(run_file.write(folder, output)).args(more)).expect_done();
    };
    done("one", &[]);
    let output = folder.join("one");
    let cells = Table::read(&output.join("posterior/intrinsic.parquet"));
    assert_eq!(cells.len(), 3);
    assert!(cells.is_null("teff_low", 0) && cells.is_null("teff_high", 2));
    assert_eq!(
        (cells.number("teff_high", 0), cells.number("teff_low", 1)),
        (middle, middle)
    );
    for (cell, sigma) in sigmas.iter().enumerate() {
        let n = cells.whole("n_spectra", cell) as f64;
        let found = cells.list("covariance", cell);
        assert!(cells.flag("own", cell) && n > 500.0);
        for (k, sigma) in [*sigma, 2.0, 1.0].iter().enumerate() {
            // Photons add 1 % at most to the uncertainty; four standard errors of a variance from n stars.
            let variance = found[k * (K + 1)];
            assert!(
                (variance / (sigma * sigma) - 1.0).abs() < 4.0 * (2.0 / n).sqrt(),
                "cell {cell}: {found:?}"
            );
        }
    }
    let settings = &manifest(&output)["settings"];
    let overall: Vec<f64> = serde_json::from_value(settings["intrinsic_estimate"]["covariance"].clone()).unwrap();
    assert!(!cells.flag("own", 2) && cells.whole("n_spectra", 2) < 50);
    assert_eq!(cells.list("covariance", 2), overall);
    assert_eq!(settings["intrinsic_cells"].as_array().unwrap().len(), 3);
    let notes = manifest(&output)["notes"].to_string();
    assert!(
        notes.contains("<= teff:") && notes.contains("fewer than 50: that of all cells is taken"),
        "{notes}"
    );

    let stars = Table::read(&output.join("predictions"));
    let mut seen = [0; 3];
    for row in 0..stars.len() {
        let teff = stars.number("teff", row);
        let cell = usize::from(teff >= middle) + usize::from(teff >= upper);
        seen[cell] += 1;
        assert_eq!(
            stars.list("cov_intrinsic", row),
            cells.list("covariance", cell),
            "star {row}"
        );
        let [total, flux, weights] = ["cov", "cov_flux", "cov_weights"].map(|part| stars.list(part, row));
        let sum = flux[0] + weights[0] + cells.list("covariance", cell)[0];
        assert!((total[0] / sum - 1.0).abs() < 1e-14);
    }
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
    done("four", &["-w", "4"]);
    assert_eq!(digests(&folder.join("four")), digests(&output));
}

/// A large catalogue is sampled: for two cells twice as many groups are as for one, here nearly all of them, and the rare cell has enough.
#[test]
fn a_rare_cell_of_a_large_catalogue_has_its_own_scatter() {
    const N: usize = 40_000;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &WIDTHS);
    let network = he_normal(&WIDTHS);
    let mut predicted: Vec<f64> = simulated(PIXELS, 0, N as u64)
        .iter()
        .map(|spectrum| predictions(&network, spectrum)[0])
        .collect();
    predicted.sort_by(f64::total_cmp);
    // 100 stars, 90 of them held out; of less than half of the groups, enough for one cell, 43.
    let edge = predicted[N - 100];
    let sigmas = [400.0, 4000.0];
    let sigma = |predicted: &[f64]| [sigmas[usize::from(predicted[0] >= edge)], 2.0, 1.0];
    write_objects(&folder.join("catalogue"), &labelled(&network, 0, N as u64, sigma), 1000);
    write_objects(&folder.join("stars"), &simulated(PIXELS, 500_000, 20), 20);
    let mut run_file = run_file(folder, "out");
    run_file.curvature = "structure = \"diagonal\"".to_owned();
    run_file.compute = "batch = 250\ngroup = 1000\nprecision = \"f64\"".to_owned();
    // A prior that leaves the weights next to nothing.
    run_file.prior = "precision = 1e9".to_owned();
    run_file.noise = format!("holdout_fraction = 0.9\n[noise.intrinsic_bins]\nteff = [{edge:?}]");
    run(fisherflow().arg("run").arg(run_file.write(folder, "out"))).expect_done();
    let cells = Table::read(&folder.join("out/posterior/intrinsic.parquet"));
    let n = cells.whole("n_spectra", 1) as f64;
    assert!(cells.flag("own", 1) && n > 60.0, "{n} of the rare cell");
    let variance = cells.list("covariance", 1)[0];
    assert!(
        (variance / (sigmas[1] * sigmas[1]) - 1.0).abs() < 4.0 * (2.0 / n).sqrt(),
        "{variance} of {n} stars"
    );
}

#[test]
fn a_label_that_the_network_does_not_have_makes_no_cells() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &WIDTHS);
    write_objects(&folder.join("catalogue"), &simulated(PIXELS, 0, 60), 60);
    write_objects(&folder.join("stars"), &simulated(PIXELS, 100, 10), 10);
    let mut run_file = run_file(folder, "out");
    run_file.noise = "[noise.intrinsic_bins]\nteff = [4000]\nage = [1, 2]".to_owned();
    let ended = run(fisherflow().arg("run").arg(run_file.write(folder, "out")));
    ended.expect(
        2,
        &["[noise.intrinsic_bins]", "no label `age`, it has teff, logg, fe_h"],
    );
    assert!(fs::read_dir(folder.join("out")).is_err());
}

/// One pixel's error that stands for "bad" leaves a star's labels no covariance to invert: it weighs nothing, in whichever pass weighs it, and the sums
/// are those of the run that does not have its labels.
#[test]
fn a_training_spectrum_that_tells_nothing_beside_its_own_errors_weighs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &WIDTHS);
    let network = he_normal(&WIDTHS);
    let mut spectra = labelled(&network, 0, 120, |_| [200.0, 0.5, 0.3]);
    let row = (60..120).find(|&row| !is_out(&spectra[row]) && spoil(&network, &mut spectra[row]));
    let row = row.unwrap();
    write_objects(&folder.join("spoilt"), &spectra, 60);
    spectra[row].labels = [None; K];
    write_objects(&folder.join("unlabelled"), &spectra, 60);
    let run_file = |catalogue: &str, output: &str, structure: &str| {
        let mut run_file = run_file(folder, output);
        run_file.catalogue = toml_path(&folder.join(catalogue));
        run_file.predict = None;
        run_file.curvature = format!("structure = \"{structure}\"");
        run_file.noise = format!("holdout_fraction = {HELD_OUT}\nerrors_in_variables = true");
        run_file.write(folder, output)
    };
    let done = |catalogue: &str, structure: &str| {
        let output = format!("{catalogue}-{structure}");
        let ended = run(fisherflow().arg("run").arg(run_file(catalogue, &output, structure)));
        ended.expect_done();
        (folder.join(output), ended.stdout)
    };
    let (expected, _) = done("unlabelled", "block");
    assert_eq!(counts(&expected)["fit_overwhelmed"], 0);
    for structure in ["block", "low_rank", "dual"] {
        let (found, screen) = done("spoilt", structure);
        let counted = counts(&found);
        assert_eq!(counted["fit_overwhelmed"], 1, "{structure}");
        let said = format!("1 of {} spectra in the sums weigh nothing", counted["fit_in_sums"]);
        assert!(screen.contains(&said), "{screen}");
        assert_eq!(counted["fit_in_sums"], counts(&expected)["fit_in_sums"] + 1);
    }
    for block in ["block-000", "block-001"] {
        let [found, expected] = [&folder.join("spoilt-block"), &expected].map(|output| {
            let table = Table::read(&output.join(format!("posterior/hessian/{block}.parquet")));
            let rows = (0..table.len()).flat_map(|row| table.list("values", row));
            rows.collect::<Vec<f64>>()
        });
        let largest = expected
            .iter()
            .fold(0.0, |largest: f64, value| largest.max(value.abs()));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 1e-13 * largest,
                "{block}: {found} {expected}"
            );
        }
    }
    let mut asked = fisherflow();
    asked.arg("spectrum").arg(run_file("spoilt", "products", "block"));
    asked.args(["--probes", "1", "--steps", "2"]);
    asked.arg("--out").arg(folder.join("spectrum"));
    run(&mut asked).expect_done();
}

/// Beside an error that stands for "bad" any residual is a pull near 0: pulls are those of the run without such spectra, and these are counted.
#[test]
fn spectra_that_tell_nothing_beside_their_own_errors_are_in_no_pulls() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &WIDTHS);
    let network = he_normal(&WIDTHS);
    let (spectra, spoilt) = half_spoilt(&network);
    assert!(spoilt.len() > 5, "{}", spoilt.len());
    let others: Vec<Spectrum> = spectra.iter().filter(|s| !spoilt.contains(&s.id)).cloned().collect();
    write_objects(&folder.join("all"), &spectra, 60);
    write_objects(&folder.join("others"), &others, 60);
    let run_file = |catalogue: &str, output: &str| {
        let mut run_file = RunFile::new(folder, output);
        run_file.catalogue = toml_path(&folder.join(catalogue));
        run_file.curvature = "structure = \"diagonal\"".to_owned();
        run_file.compute += "\nprecision = \"f64\"";
        // A prior that leaves the weights next to nothing.
        run_file.prior = "precision = 1e9".to_owned();
        run_file.noise = format!("holdout_fraction = {HELD_OUT}");
        run_file
    };
    let told = |output: &str, toml: String| {
        let file = folder.join(format!("{output}.toml"));
        fs::write(&file, toml).unwrap();
        let ended = run(fisherflow().arg("run").arg(file));
        ended.expect_done();
        let output = folder.join(output);
        let pulls = manifest(&output)["settings"]["pulls"].clone();
        (pulls, counts(&output)["predict_overwhelmed"], ended.stdout)
    };
    let (found, left_out, screen) = told("of-all", run_file("all", "of-all").toml());
    let (expected, none, _) = told("of-others", run_file("others", "of-others").toml());
    assert_eq!((left_out, none), (spoilt.len() as u64, 0));
    let said = format!(
        "{} held-out spectra are neither in C_intrinsic nor in the pulls",
        spoilt.len()
    );
    assert!(screen.contains(&said), "{screen}");
    for k in 0..K {
        let (found, expected) = (&found[k], &expected[k]);
        assert_eq!(found["n_spectra"], expected["n_spectra"]);
        let deviation = |pulls: &serde_json::Value| pulls["standard_deviation"].as_f64().unwrap();
        let ratio = deviation(found) / deviation(expected);
        assert!((ratio - 1.0).abs() < 1e-5, "label {k}: {found} for {expected}");
    }

    let spoilt = write_spoilt_stars(folder, &network);
    let labels = LABELS.map(|(name, _)| name);
    let toml = run_file("others", "of-stars").predicting(folder, "stars").toml();
    let toml = toml.replace("[predict]\n", &format!("[predict]\nlabels = {labels:?}\n"));
    let (pulls, left_out, screen) = told("of-stars", toml);
    assert_eq!((pulls[0]["n_spectra"].as_u64(), left_out), (Some(40 - spoilt), spoilt));
    let said = format!("{spoilt} labelled spectra of [predict] are in no pulls");
    assert!(screen.contains(&said), "{screen}");
}

/// Beside a given R nothing need be known of held-out residuals, and the pulls of [predict] are the only ones: R tells then.
#[test]
fn spectra_that_tell_nothing_beside_a_given_r_are_in_no_pulls() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &WIDTHS);
    let network = he_normal(&WIDTHS);
    let spectra = labelled(&network, 0, 240, |_| [200.0, 0.5, 0.3]);
    write_objects(&folder.join("catalogue"), &spectra, 60);
    let spoilt = write_spoilt_stars(folder, &network);
    let labels = format!("labels = {:?}\n", LABELS.map(|(name, _)| name));
    let of_r = "covariance = [[40000.0, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 0.09]]\nholdout_fraction";
    for (output, of_fit, held_out) in [("none-held-out", labels.as_str(), 0.0), ("no-labels", "", HELD_OUT)] {
        let mut run_file = RunFile::new(folder, output).predicting(folder, "stars");
        run_file.curvature = "structure = \"diagonal\"".to_owned();
        run_file.compute += "\nprecision = \"f64\"";
        run_file.noise = format!("{of_r} = {held_out:?}");
        let toml = run_file.toml().replace(&labels, of_fit);
        let file = folder.join(format!("{output}.toml"));
        fs::write(&file, toml.replace("[predict]\n", &format!("[predict]\n{labels}"))).unwrap();
        let ended = run(fisherflow().arg("run").arg(file));
        ended.expect_done();
        let output = folder.join(output);
        let pulls = &manifest(&output)["settings"]["pulls"];
        assert_eq!(pulls[0]["n_spectra"], 40 - spoilt, "{ended}");
        assert_eq!(counts(&output)["predict_overwhelmed"], spoilt);
        let said = format!("{spoilt} labelled spectra of [predict] are in no pulls");
        assert!(ended.stdout.contains(&said), "{ended}");
    }
}

/// R is beyond the photons' part with errors in variables alone: else it is of all residuals, and the note of such spectra says so, but for an R that was
/// pinned without them.
#[test]
fn whether_spectra_that_tell_nothing_are_in_r_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &WIDTHS);
    let (spectra, spoilt) = half_spoilt(&he_normal(&WIDTHS));
    write_objects(&folder.join("catalogue"), &spectra, 60);
    let held_out = spectra.iter().filter(|spectrum| is_out(spectrum)).count();
    for (weighed, in_r) in [(false, held_out), (true, held_out - spoilt.len())] {
        let output = format!("out-{weighed}");
        let mut run_file = run_file(folder, &output);
        run_file.predict = None;
        run_file.noise = format!("holdout_fraction = {HELD_OUT}\nerrors_in_variables = {weighed}");
        let ended = run(fisherflow().arg("run").arg(run_file.write(folder, &output)));
        ended.expect_done();
        let noise = &manifest(&folder.join(output))["settings"]["noise_estimate"];
        assert_eq!(noise["n_spectra"], in_r);
        let said = format!(
            "{} held-out spectra are neither in C_intrinsic nor in the pulls",
            spoilt.len()
        );
        assert!(ended.stdout.contains(&said), "{ended}");
        assert_eq!(ended.stdout.contains("nor in the pulls (but in R"), !weighed, "{ended}");
    }

    let others: Vec<Spectrum> = spectra.iter().filter(|s| !spoilt.contains(&s.id)).cloned().collect();
    write_objects(&folder.join("others"), &others, 60);
    let mut before = RunFile::new(folder, "line");
    before.catalogue = toml_path(&folder.join("others"));
    let line = folder.join("line.toml");
    fs::write(&line, format!("{}releases = true\n", before.toml())).unwrap();
    run(fisherflow().arg("run").arg(line)).expect_done();
    let mut later = RunFile::new(folder, "later");
    later.noise += &format!("\nbasis = \"{}\"", toml_path(&folder.join("line/basis.json")));
    let ended = run(fisherflow().arg("run").arg(later.write(folder, "later")));
    ended.expect_done();
    assert!(ended.stdout.contains("nor in the pulls: "), "{ended}");
}

/// The photons' part is in the sums of every structure: `dual`, and `low_rank` of all eigenpairs, give the error bars of `full`, and an `ekfac`
/// block has the diagonal of the exact block in its own bases. Without the photons' part all of them are others.
#[test]
fn errors_in_variables_are_in_the_sums_of_every_structure() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &WIDTHS);
    let spectra = labelled(&he_normal(&WIDTHS), 0, 120, |_| [200.0, 0.5, 0.3]);
    write_objects(&folder.join("catalogue"), &spectra, 60);
    write_objects(&folder.join("stars"), &simulated(PIXELS, 5000, 20), 20);
    let p = (PIXELS + 1) * WIDTHS[1] + (WIDTHS[1] + 1) * K;
    let done = |output: &str, curvature: &str, weighed: bool| {
        let mut run_file = run_file(folder, output);
        run_file.curvature = curvature.to_owned();
        run_file.noise = format!("holdout_fraction = {HELD_OUT}\nerrors_in_variables = {weighed}");
        run(fisherflow().arg("run").arg(run_file.write(folder, output))).expect_done();
        folder.join(output)
    };
    let weights = |output: &Path| -> Vec<f64> {
        let table = Table::read(&output.join("predictions"));
        (0..table.len())
            .flat_map(|row| table.list("cov_weights", row))
            .collect()
    };
    let apart = |found: &[f64], expected: &[f64]| -> f64 {
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        norm(&mut found.iter().zip(expected).map(|(f, e)| f - e)) / norm(&mut expected.iter().copied())
    };
    let stored = |output: &Path, factor: &str| -> Vec<f64> {
        let table = Table::read(&output.join("posterior/hessian/block-000.parquet"));
        let rows = (0..table.len()).filter(|&row| table.text("factor", row) == factor);
        rows.flat_map(|row| table.list("values", row)).collect()
    };

    let low_rank = format!("structure = \"low_rank\"\nrank = {p}");
    let full = weights(&done("full", "structure = \"full\"", true));
    for (name, curvature) in [("dual", "structure = \"dual\""), ("low_rank", &low_rank)] {
        let found = weights(&done(name, curvature, true));
        assert!(apart(&found, &full) < 1e-8, "{name}: {:e}", apart(&found, &full));
    }
    let without = weights(&done("full-without", "structure = \"full\"", false));
    assert!(apart(&without, &full) > 1e-3, "{:e}", apart(&without, &full));

    for kind in ["ggn", "empirical_fisher"] {
        let of = |structure: &str, weighed: bool| {
            let curvature = format!("structure = \"{structure}\"\nkind = \"{kind}\"");
            done(&format!("{kind}-{structure}-{weighed}"), &curvature, weighed)
        };
        let (block, ekfac) = (of("block", true), of("ekfac", true));
        let h = stored(&block, "dense");
        let (v, u) = (stored(&ekfac, "a_eigenvectors"), stored(&ekfac, "g_eigenvectors"));
        let found = stored(&ekfac, "eigenvalues");
        let (inputs, outputs) = (PIXELS + 1, WIDTHS[1]);
        let side = inputs * outputs;
        let expected: Vec<f64> = (0..side)
            .map(|at| {
                let q: Vec<f64> = (0..side)
                    .map(|w| u[w / inputs * outputs + at / inputs] * v[w % inputs * inputs + at % inputs])
                    .collect();
                let row = |i: usize| (0..side).map(|j| h[i * side + j] * q[j]).sum::<f64>();
                (0..side).map(|i| q[i] * row(i)).sum()
            })
            .collect();
        assert_eq!(found.len(), side);
        assert!(
            apart(&found, &expected) < 1e-9,
            "{kind}: {:e}",
            apart(&found, &expected)
        );
        let without = stored(&of("block", false), "dense");
        assert!(apart(&without, &h) > 1e-3, "{kind}: {:e}", apart(&without, &h));
    }
}
