//! Where the prior precision comes from: given by layer, by evidence, by evidence per layer, by held-out spectra.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fisherflow_tests::{
    PlainNetwork, Processes, RunFile, Table, consumer, digests, fisherflow, he_normal, manifest, network, run,
    simulated, write_objects,
};
use serde_json::Value;

const PIXELS: usize = 40;

/// A folder with 330 spectra to fit, 60 to predict, and a network of three layers.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    network(&folder.path().join("network.safetensors"), &[PIXELS, 12, 8, 3]);
    write_objects(&folder.path().join("catalogue"), &simulated(PIXELS, 0, 330), 33);
    write_objects(&folder.path().join("stars"), &simulated(PIXELS, 9000, 60), 30);
    folder
}

/// A run whose last two layers are one exact block, in double precision.
fn run_file(folder: &Path, output: &str, prior: &str) -> RunFile {
    let mut run_file = RunFile::new(folder, output).predicting(folder, "stars");
    run_file.curvature =
        "structure = \"kfac\"\n[curvature.layers]\n\"layers.2\" = \"full\"\n\"layers.4\" = \"full\"".to_owned();
    run_file.compute += "\nprecision = \"f64\"";
    run_file.prior = prior.to_owned();
    run_file
}

fn done(folder: &Path, output: &str, prior: &str, more: &[&str]) -> Value {
    let file = run_file(folder, output, prior).write(folder, output);
    run(fisherflow().arg("run").arg(file).args(more)).expect_done();
    manifest(&folder.join(output))["settings"].clone()
}

/// The error of a run that is refused.
fn refused(folder: &Path, prior: &str, code: i32, said: &[&str]) {
    let file = run_file(folder, "refused", prior).write(folder, "refused");
    run(fisherflow().arg("run").arg(file)).expect(code, said);
}

/// The prior precision of each block.
fn precisions(output: &Path) -> BTreeMap<String, f64> {
    let blocks = Table::read(&output.join("posterior/blocks.parquet"));
    (0..blocks.len())
        .map(|row| (blocks.text("layer", row), blocks.number("prior_precision", row)))
        .collect()
}

fn convention(file: &Path) -> Value {
    serde_json::from_str(&Table::read(file).metadata["fisherflow.convention"]).unwrap()
}

/// The same bits from four workers, stage by stage, and from two processes.
fn same_bits_elsewhere(folder: &Path, prior: &str, expected: &BTreeMap<String, String>) {
    done(folder, "four", prior, &["-w", "4"]);
    assert_eq!(&digests(&folder.join("four")), expected);
    let stages = run_file(folder, "stages", prior).write(folder, "stages");
    for stage in ["fit", "invert", "predict"] {
        run(fisherflow().arg(stage).arg(&stages).args(["-w", "2"])).expect_done();
    }
    assert_eq!(&digests(&folder.join("stages")), expected);
    let cluster = run_file(folder, "cluster", prior).write(folder, "cluster");
    for ended in Processes::start(2, &cluster, 2).wait_all() {
        ended.expect_done();
    }
    assert_eq!(&digests(&folder.join("cluster")), expected);
}

#[test]
fn layers_have_the_precision_that_the_run_file_gives() {
    let folder = prepared();
    let folder = folder.path();
    let prior = "precision = 2.0\n[prior.layers]\n\"layers.0\" = 70.0";
    let settings = done(folder, "by-layer", prior, &[]);
    let expected = BTreeMap::from([("layers.0", 70.0), ("layers.2+layers.4", 2.0)].map(|(l, p)| (l.to_owned(), p)));
    assert_eq!(precisions(&folder.join("by-layer")), expected);
    assert_eq!(settings["prior"]["precision"], serde_json::json!(expected));
    assert_eq!(settings["prior"]["given"]["layers.0"], 70.0);
    for file in ["posterior/inverse/block-000.parquet", "predictions/part-00000.parquet"] {
        let said = convention(&folder.join("by-layer").join(file));
        assert_eq!(said["prior_precision"], serde_json::json!(expected), "{file}");
    }
    // Each block is what a run with its precision for all makes of it.
    for (precision, block) in [("70.0", "block-000"), ("2.0", "block-001")] {
        let settings = done(folder, precision, &format!("precision = {precision}"), &[]);
        assert_eq!(settings["prior"]["precision"].as_f64(), precision.parse().ok());
        let read = |output: &str| {
            let table = Table::read(
                &folder
                    .join(output)
                    .join(format!("posterior/marginal_variance/{block}.parquet")),
            );
            (0..table.len())
                .map(|row| table.number("std_error", row))
                .collect::<Vec<_>>()
        };
        assert_eq!(read("by-layer"), read(precision), "{block}");
    }
    let effective = &settings["effective_parameters"];
    let of = |layer: &str| effective["by_layer"][layer].as_f64().unwrap();
    assert!((of("layers.0") + of("layers.2+layers.4") - effective["all"].as_f64().unwrap()).abs() < 1e-9);
    let in_sums = manifest(&folder.join("by-layer"))["counts"]["fit_in_sums"]
        .as_u64()
        .unwrap();
    assert_eq!(effective["limit"], 3 * in_sums);
}

#[test]
fn layers_that_cannot_have_their_precision_are_refused() {
    let folder = prepared();
    let folder = folder.path();
    let layers = |precision: &str, layers: &str| format!("precision = {precision}\n[prior.layers]\n{layers}");
    refused(
        folder,
        &layers("2.0", "\"layers.2\" = 5.0"),
        2,
        &["[prior.layers]", "layers.2 and layers.4 are one block", "5 and 2"],
    );
    refused(
        folder,
        &layers("2.0", "\"layer.2\" = 5.0"),
        2,
        &["`layer.2`; the nearest is `layers.2`"],
    );
    refused(
        folder,
        &layers("\"evidence\"", "\"layers.4\" = 5.0"),
        2,
        &["one to be found and 5"],
    );
    refused(
        folder,
        &layers("\"holdout\"", "\"layers.0\" = 5\n\"layers.2\" = 5\n\"layers.4\" = 5"),
        2,
        &["none is left to be found"],
    );
}

#[test]
fn the_evidence_of_all_layers_is_that_of_brute_force() {
    let folder = prepared();
    let folder = folder.path();
    done(folder, "all", "precision = \"evidence\"", &[]);
    brute_force(&folder.join("all"), &folder.join("network.safetensors"), &["all"]);
}

/// Prior precision and curve against Cholesky factors in numpy.
fn brute_force(output: &Path, network: &Path, curves: &[&str]) {
    let Some(found) = consumer("evidence.py", [output, network]) else {
        return;
    };
    println!("{found:#}");
    assert_eq!(found.as_object().unwrap().keys().collect::<Vec<_>>(), curves);
    for curve in curves {
        let apart = |what: &str| found[curve][what].as_f64().unwrap_or(f64::NAN);
        assert!(apart("precision") < 1e-6, "{curve}: {found}");
        assert!(apart("curve") < 1e-8, "{curve}: {found}");
    }
}

#[test]
fn each_layer_has_the_maximum_of_its_own_evidence() {
    let folder = prepared();
    let folder = folder.path();
    let prior = "precision = \"evidence\"\nper_layer = true";
    let settings = done(folder, "one", prior, &[]);
    let output = folder.join("one");
    let found = precisions(&output);
    assert_eq!(settings["prior"]["from"], "evidence_per_layer");
    assert_eq!(settings["prior"]["precision"], serde_json::json!(found));
    for (block, precision) in &found {
        let facts = &settings["prior"]["evidence_by_block"][block];
        assert_eq!(facts["precision"].as_f64(), Some(*precision));
        assert_eq!(facts["at_edge"], false);
        let implied = facts["effective_parameters"].as_f64().unwrap() / facts["weights_squared"].as_f64().unwrap();
        assert!((implied / precision - 1.0).abs() < 1e-10, "{block}");
    }
    brute_force(
        &output,
        &folder.join("network.safetensors"),
        &["layers.0", "layers.2+layers.4"],
    );
    let curves = Table::read(&output.join("posterior/evidence.parquet"));
    assert!((0..curves.len()).all(|row| !curves.is_null("layer", row)));
    same_bits_elsewhere(folder, prior, &digests(&output));

    // One for all of the others, beside a given one.
    let mixed = "precision = \"evidence\"\n[prior.layers]\n\"layers.0\" = 3.0";
    done(folder, "mixed", mixed, &[]);
    let notes = manifest(&folder.join("mixed"))["notes"].to_string();
    let said = "by evidence, one for all layers without a precision in [prior.layers], can be far from calibrated";
    assert!(notes.contains(said), "{notes}");
    let mixed = precisions(&folder.join("mixed"));
    assert_eq!(mixed["layers.0"], 3.0);
    assert_eq!(mixed["layers.2+layers.4"], found["layers.2+layers.4"]);
    let curves = Table::read(&folder.join("mixed/posterior/evidence.parquet"));
    assert!((0..curves.len()).all(|row| curves.is_null("layer", row)));
}

#[test]
fn a_layer_without_an_evidence_of_its_own_is_named_with_the_remedy() {
    let folder = prepared();
    let folder = folder.path();
    // With the last layer's weights 0 the layers before it have no curvature; with its own 0 it has no largest precision.
    let mut bytes = he_normal(&[PIXELS, 12, 8, 3]).to_safetensors().unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    for name in ["layers.4.weight", "layers.4.bias"] {
        let end = |i: usize| start + header[name]["data_offsets"][i].as_u64().unwrap() as usize;
        bytes[end(0)..end(1)].fill(0);
    }
    fs::write(folder.join("network.safetensors"), bytes).unwrap();
    let with_layers = |layers: &str| {
        let mut run_file = run_file(
            folder,
            "zero",
            &format!("precision = \"evidence\"\nper_layer = true\n{layers}"),
        );
        run_file.curvature = "structure = \"kfac\"".to_owned();
        run_file.write(folder, "zero")
    };
    for (layers, said) in [
        (
            "",
            "layers.0 by itself: no prior precision maximises the evidence: the Hessian is 0",
        ),
        (
            "[prior.layers]\n\"layers.0\" = 1.0\n\"layers.2\" = 1.0",
            "layers.4 by itself: no prior precision maximises the evidence: all weights are 0",
        ),
    ] {
        let ended = run(fisherflow().arg("run").arg(with_layers(layers)).arg("--overwrite"));
        ended.expect(3, &[said, "Give the prior precision as a number in [prior.layers]"]);
    }
}

#[test]
fn a_prior_by_held_out_spectra_is_the_same_everywhere_and_what_its_curve_says() {
    let folder = prepared();
    let folder = folder.path();
    let prior = "precision = \"holdout\"";
    let settings = done(folder, "one", prior, &[]);
    let output = folder.join("one");
    let prior_facts = &settings["prior"];
    assert_eq!(prior_facts["from"], "holdout");
    let precision = prior_facts["precision"].as_f64().unwrap();
    let evidence = prior_facts["evidence"]["precision"].as_f64().unwrap();
    let (from, to) = (
        prior_facts["holdout"]["indistinct_from"].as_f64().unwrap(),
        prior_facts["holdout"]["indistinct_to"].as_f64().unwrap(),
    );
    assert!((from..=to).contains(&precision), "{prior_facts}");
    let curve = Table::read(&output.join("posterior/holdout.parquet"));
    assert_eq!(
        prior_facts["holdout"]["curve_points"].as_u64(),
        Some(curve.len() as u64)
    );
    let deltas: Vec<f64> = (0..curve.len())
        .map(|row| curve.number("prior_precision", row))
        .collect();
    assert!(deltas[0] < evidence / 9e3 && deltas[curve.len() - 1] > 9e5 * evidence);
    let likelihoods: Vec<f64> = (0..curve.len())
        .map(|row| curve.number("log_likelihood", row))
        .collect();
    let best = prior_facts["holdout"]["log_likelihood"].as_f64().unwrap();
    for (delta, likelihood) in deltas.iter().zip(&likelihoods) {
        let within = (from..=to).contains(delta);
        assert_eq!(within, *likelihood >= best - 2.0, "{delta}: {likelihood} of {best}");
    }
    assert!(manifest(&output)["notes"].to_string().contains("held-out spectra"));
    let said = convention(&output.join("predictions/part-00000.parquet"));
    assert!(
        said["prior_precision_from"]
            .as_str()
            .unwrap()
            .starts_with("by held-out spectra")
    );
    same_bits_elsewhere(folder, prior, &digests(&output));

    // A point of the curve is what a run with that precision finds, which inverts every block for itself.
    for row in [curve.len() / 4, curve.len() / 2] {
        let name = format!("point-{row}");
        let settings = done(folder, &name, &format!("precision = {:e}", deltas[row]), &[]);
        let effective = settings["effective_parameters"]["all"].as_f64().unwrap();
        assert!((curve.number("effective_parameters", row) / effective - 1.0).abs() < 1e-8);
        for (label, pulls) in ["teff", "logg", "fe_h"]
            .iter()
            .zip(settings["held_out_pulls"].as_array().unwrap())
        {
            let expected = pulls["standard_deviation"].as_f64().unwrap();
            let found = curve.number(&format!("pull_std_{label}"), row);
            assert!(
                (found / expected - 1.0).abs() < 1e-5,
                "{label} at {}: {found} {expected}",
                deltas[row]
            );
        }
    }

    // A given layer keeps its precision while that of the others is looked for, and is in the effective parameters of neither curve.
    let mixed = "precision = \"holdout\"\n[prior.layers]\n\"layers.0\" = 3.0";
    let settings = done(folder, "mixed", mixed, &["-w", "2"]);
    let output = folder.join("mixed");
    assert_eq!(precisions(&output)["layers.0"], 3.0);
    let effective = |facts: &Value| facts.as_f64().unwrap();
    let (found, expected) = (
        effective(&settings["prior"]["holdout"]["effective_parameters"]),
        effective(&settings["effective_parameters"]["by_layer"]["layers.2+layers.4"]),
    );
    assert!((found / expected - 1.0).abs() < 1e-8, "{found} {expected}");
    let [by_holdout, by_evidence] = ["holdout", "evidence"].map(|curve| {
        let table = Table::read(&output.join(format!("posterior/{curve}.parquet")));
        let of = |column: &str, row: usize| table.number(column, row);
        (0..table.len())
            .map(|row| (of("prior_precision", row).to_bits(), of("effective_parameters", row)))
            .collect::<BTreeMap<u64, f64>>()
    });
    let both: Vec<(f64, f64)> = by_holdout
        .iter()
        .filter_map(|(delta, found)| Some((*found, *by_evidence.get(delta)?)))
        .collect();
    assert!(both.len() > 9, "{both:?}");
    for (found, expected) in both {
        assert!((found / expected - 1.0).abs() < 1e-12, "{found} {expected}");
    }
}

#[test]
fn a_given_noise_keeps_held_out_spectra_out_of_the_sums_where_the_prior_looks_at_them() {
    let folder = prepared();
    let folder = folder.path();
    let in_sums = |output: &str, prior: &str| {
        let mut run_file = run_file(folder, output, prior);
        run_file.noise = "covariance = [[90000, 0, 0], [0, 0.5, 0], [0, 0, 0.2]]\nholdout_fraction = 0.25".to_owned();
        run(fisherflow().arg("run").arg(run_file.write(folder, output))).expect_done();
        manifest(&folder.join(output))["counts"]["fit_in_sums"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(in_sums("given", "precision = 2.0"), 330);
    let held_out = in_sums("holdout", "precision = \"holdout\"");
    assert!(held_out < 300, "{held_out}");
    assert_eq!(in_sums("scaled", "precision = 2.0\nlabel_scale = true"), held_out);
    // Over spectra in the sums no pulls are taken.
    for output in ["given", "holdout", "scaled"] {
        let told = manifest(&folder.join(output));
        let (pulls, notes) = (&told["settings"]["held_out_pulls"], told["notes"].to_string());
        assert_eq!(pulls.is_null(), output == "given", "{output}: {pulls}");
        let said = "no pulls are taken over them (a [predict] catalogue with labels gives some)";
        assert_eq!(notes.contains(said), output == "given", "{output}: {notes}");
    }
}

/// `a x = b` with a positive definite `a`, by elimination.
fn solved(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let p = b.len();
    for i in 0..p {
        let (above, below) = a.split_at_mut(i + 1);
        let pivot = &above[i];
        for (row, at) in below.iter_mut().zip(i + 1..) {
            let factor = row[i] / pivot[i];
            for (value, above) in row.iter_mut().zip(pivot) {
                *value -= factor * above;
            }
            b[at] -= factor * b[i];
        }
    }
    for i in (0..p).rev() {
        let rest: f64 = (i + 1..p).map(|col| a[i][col] * b[col]).sum();
        b[i] = (b[i] - rest) / a[i][i];
    }
    b
}

/// A linear network at the least mean of `r^2` over N spectra and K labels plus `w |theta|^2` is at the minimum under the precision that the
/// remedy for a missing one says.
#[test]
fn a_penalty_of_the_training_is_a_precision_by_the_noise() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let spectra = simulated(PIXELS, 0, 90);
    write_objects(&folder.join("catalogue"), &spectra, 30);
    let (n, k, w, variance) = (90.0_f64, 3.0_f64, 0.02_f64, 0.3_f64);
    let mut net = PlainNetwork::random(&[PIXELS, 3], "relu", 1);
    let inputs: Vec<Vec<f64>> = spectra
        .iter()
        .map(|spectrum| {
            let flux = spectrum.flux.as_ref().unwrap();
            let pixels = flux.iter().zip(net.input_mean.iter().zip(&net.input_scale));
            let input = pixels.map(|(flux, (mean, scale))| (f64::from(*flux) - mean) / scale);
            input.chain([1.0]).collect()
        })
        .collect();
    let sum = |of: &dyn Fn(usize) -> f64| (0..spectra.len()).map(of).sum::<f64>();
    let columns = 0..=PIXELS;
    let mut square = 0.0_f64;
    for label in 0..3 {
        let normalised =
            |at: usize| (spectra[at].labels[label].unwrap() - net.label_mean[label]) / net.label_scale[label];
        let row = |i: usize| -> Vec<f64> {
            let penalty = |j: usize| if i == j { n * k * w } else { 0.0 };
            let columns = columns.clone();
            columns
                .map(|j| sum(&|at| inputs[at][i] * inputs[at][j]) + penalty(j))
                .collect()
        };
        let a = columns.clone().map(row).collect();
        let b = columns
            .clone()
            .map(|i| sum(&|at| inputs[at][i] * normalised(at)))
            .collect();
        let mut theta = solved(a, b);
        square += theta.iter().map(|theta| theta * theta).sum::<f64>();
        net.layers[0].bias[label] = theta.pop().unwrap();
        net.layers[0].weight[label] = theta;
    }
    net.write(&folder.join("network.safetensors"));
    let ended = |output: &str, prior: &str| {
        let mut run_file = run_file(folder, output, prior);
        let scale = &net.label_scale;
        let noise =
            [0_usize, 1, 2].map(|i| [0, 1, 2].map(|j| if i == j { variance * scale[i] * scale[i] } else { 0.0 }));
        run_file.noise = format!("covariance = {noise:?}");
        run_file.predict = None;
        run_file.curvature = "structure = \"full\"".to_owned();
        run(fisherflow().arg("run").arg(run_file.write(folder, output)))
    };
    ended("without", "").expect(2, &["`prior.precision` is missing", "N K w / sigma^2"]);
    // The gradient there, over that of the prior alone.
    let gradient = |output: &str, precision: f64| {
        ended(output, &format!("precision = {precision:?}")).expect_done();
        assert_eq!(manifest(&folder.join(output))["counts"]["fit_in_sums"], 90);
        let blocks = Table::read(&folder.join(output).join("posterior/blocks.parquet"));
        blocks.number("gradient_norm", 0) / (precision * square.sqrt())
    };
    let precision = n * k * w / variance;
    assert!(gradient("said", precision) < 1e-5);
    assert!(gradient("half", precision / 2.0) > 0.9);
}

#[test]
fn factors_of_the_labels_are_in_the_predictions_and_said() {
    let folder = prepared();
    let folder = folder.path();
    let plain = done(folder, "plain", "precision = 5.0", &[]);
    assert!(plain["label_scale"].is_null());
    let settings = done(folder, "scaled", "precision = 5.0\nlabel_scale = true", &["-w", "3"]);
    let scale: Vec<f64> = serde_json::from_value(settings["label_scale"]["scale"].clone()).unwrap();
    assert_eq!(scale.len(), 3);
    assert!(settings["label_scale"]["log_likelihood_gain"].as_f64().unwrap() > -1e-6);
    assert!(
        manifest(&folder.join("scaled"))["notes"]
            .to_string()
            .contains("the weights' part is multiplied")
    );
    let said = convention(&folder.join("scaled/predictions/part-00000.parquet"));
    assert_eq!(said["weights_part_scale"], serde_json::json!(scale));
    let [plain, scaled] = ["plain", "scaled"].map(|output| Table::read(&folder.join(output).join("predictions")));
    for row in 0..plain.len() {
        let (before, after) = (plain.list("cov_weights", row), scaled.list("cov_weights", row));
        for i in 0..9 {
            let expected = before[i] * scale[i / 3] * scale[i % 3];
            assert!(
                (after[i] - expected).abs() <= 1e-12 * expected.abs(),
                "star {row}, element {i}"
            );
        }
    }
}

/// A network trained on spectra that resemble APOGEE's, over stars that it was not trained on.
#[test]
fn held_out_pulls_of_a_trained_network_are_right_by_holdout() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut simulate = fisherflow();
    simulate
        .arg("simulate")
        .arg(folder.join("all"))
        .args(["--spectra", "6000", "--pixels", "300", "--objects", "6", "--seed", "5"])
        .args(["--snr-from", "50", "--snr-to", "300"]);
    run(&mut simulate).expect_done();
    for (name, objects) in [("catalogue", 0..4), ("stars", 4..6)] {
        fs::create_dir(folder.join(name)).unwrap();
        for object in objects {
            let file = format!("part-{object:05}.parquet");
            fs::rename(folder.join("all").join(&file), folder.join(name).join(&file)).unwrap();
        }
    }
    let file = |output: &str, prior: &str| {
        let mut run_file = RunFile::new(folder, output).predicting(folder, "stars");
        run_file.curvature = "structure = \"kfac\"\n[curvature.layers]\n\"layers.2\" = \"full\"".to_owned();
        run_file.compute = "group = 1000".to_owned();
        run_file.prior = prior.to_owned();
        let toml = run_file
            .toml()
            .replace("ivar = \"ivar\"", "sigma = \"flux_err\"")
            .replace(
                "keep_columns = [\"visit\"]\n",
                "labels = [\"teff\", \"logg\", \"fe_h\"]\n",
            );
        let train = "[train]\nhidden = [32]\nepochs = 80\nbatch = 32\nlearning_rate = 0.002\npatience = 15\nseed = 2\n";
        let file = folder.join(format!("{output}.toml"));
        fs::write(&file, format!("{toml}\n{train}")).unwrap();
        file
    };
    let pulls = |output: &str, which: &str| -> Vec<f64> {
        let settings = &manifest(&folder.join(output))["settings"];
        let pulls = settings[which].as_array().unwrap().iter();
        pulls
            .map(|pulls| pulls["standard_deviation"].as_f64().unwrap())
            .collect()
    };
    let by_holdout = file("holdout", "precision = \"holdout\"");
    run(fisherflow().arg("train").arg(&by_holdout)).expect_done();
    run(fisherflow().arg("run").arg(&by_holdout).args(["-w", "2"])).expect_done();
    run(fisherflow()
        .arg("run")
        .arg(file("evidence", "precision = \"evidence\""))
        .args(["-w", "2"]))
    .expect_done();
    for output in ["holdout", "evidence"] {
        let prior = &manifest(&folder.join(output))["settings"]["prior"];
        println!(
            "{output}: precision {}, held-out pulls {:.3?}, pulls of unseen stars {:.3?}",
            prior["precision"],
            pulls(output, "held_out_pulls"),
            pulls(output, "pulls")
        );
    }
    for which in ["held_out_pulls", "pulls"] {
        let found = pulls("holdout", which);
        assert!(found.iter().all(|std| (0.9..=1.1).contains(std)), "{which}: {found:?}");
    }
}
