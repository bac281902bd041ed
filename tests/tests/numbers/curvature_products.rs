//! Exact products with the curvature, end to end: its kinds, its eigenvalues, low rank, and the Hessians of the outputs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fisherflow_network::{Activation, Arithmetic, Labels, Network, Precision};
use fisherflow_tests::{
    LABELS, Processes, RunFile, Table, digests, fisherflow, fisherflow_on, run, simulated, write_catalogue,
    write_objects,
};

/// Weights of the network: 17 inputs, 6 hidden units, 3 labels.
const P: usize = 6 * 18 + 3 * 7;

/// Label scales of the network.
const SCALE: [f64; 3] = [520.0, 1.2, 0.78];

/// A folder with three objects of 60 spectra of 17 pixels, and a tanh network of some units.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let labels = Labels {
        names: LABELS.map(|(name, _)| name.to_owned()).to_vec(),
        units: LABELS.map(|(_, unit)| unit.to_owned()).to_vec(),
        mean: vec![4600.0, 2.4, -0.85],
        scale: SCALE.to_vec(),
    };
    let arithmetic = Arithmetic {
        precision: Precision::F64,
        threads: 1,
    };
    let network = Network::he_normal(&[17, 6, 3], Activation::Tanh, labels, &[1.0], &[0.1], 5, arithmetic).unwrap();
    std::fs::write(
        folder.path().join("network.safetensors"),
        network.to_safetensors().unwrap(),
    )
    .unwrap();
    write_objects(&folder.path().join("catalogue"), &simulated(17, 0, 180), 60);
    folder
}

/// A run in f64 with these lines of `[curvature]`.
fn run_file(folder: &Path, name: &str, curvature: &str) -> RunFile {
    let mut run_file = RunFile::new(folder, name);
    curvature.clone_into(&mut run_file.curvature);
    run_file.compute = "precision = \"f64\"\nbatch = 16\ngroup = 50".to_owned();
    run_file
}

/// Runs it, and gives its output.
fn output_of(folder: &Path, name: &str, curvature: &str) -> PathBuf {
    let file = run_file(folder, name, curvature).write(folder, name);
    run(fisherflow().arg("run").arg(file)).expect_done();
    folder.join(name)
}

/// The dense matrix of a `full` block.
fn dense(output: &Path, set: &str) -> Vec<Vec<f64>> {
    let table = Table::read(&output.join(format!("posterior/{set}/block-000.parquet")));
    assert_eq!(table.len(), P);
    (0..P).map(|row| table.list("values", row)).collect()
}

fn times(matrix: &[Vec<f64>], v: &[f64]) -> Vec<f64> {
    matrix
        .iter()
        .map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum())
        .collect()
}

/// Whether all eigenvalues of `sign * matrix + shift` are above 0: whether it has a Cholesky factor.
fn is_positive(matrix: &[Vec<f64>], sign: f64, shift: f64) -> bool {
    let mut factor = vec![vec![0.0; P]; P];
    for i in 0..P {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| factor[i][k] * factor[j][k]).sum();
            let left = sign * matrix[i][j] + if i == j { shift } else { 0.0 } - known;
            if i == j && left <= 0.0 {
                return false;
            }
            factor[i][j] = if i == j { left.sqrt() } else { left / factor[j][j] };
        }
    }
    true
}

/// Whether these are the smallest and the largest eigenvalue.
fn are_extremes(matrix: &[Vec<f64>], low: f64, high: f64) -> bool {
    let within = 1e-9 * low.abs().max(high.abs());
    is_positive(matrix, 1.0, within - low)
        && !is_positive(matrix, 1.0, -within - low)
        && is_positive(matrix, -1.0, high + within)
        && !is_positive(matrix, -1.0, high - within)
}

fn convention(table: &Table) -> serde_json::Value {
    serde_json::from_str(&table.metadata["fisherflow.convention"]).unwrap()
}

#[test]
fn the_spectrum_is_that_of_the_written_hessian() {
    let folder = prepared();
    let folder = folder.path();
    for kind in ["ggn", "empirical_fisher", "hessian"] {
        let lines = format!("structure = \"full\"\nkind = \"{kind}\"");
        // A true Hessian of an untrained network needs a large prior.
        let file = run_file(folder, kind, &lines);
        let toml = file.toml().replace("precision = 2.0", "precision = 1e9");
        let file = folder.join(format!("{kind}.toml"));
        std::fs::write(&file, toml).unwrap();
        run(fisherflow().arg("run").arg(&file)).expect_done();
        let output = folder.join(kind);
        let matrices = Table::read(&output.join("posterior/hessian"));
        assert_eq!(convention(&matrices)["curvature"], kind);
        let hessian = dense(&output, "hessian");

        let out = |workers: &str| folder.join(format!("{kind}-{workers}"));
        for workers in ["1", "4"] {
            let mut command = fisherflow();
            command.args([
                "spectrum", "--probes", "3", "--steps", "200", "--seed", "7", "-w", workers,
            ]);
            let ended = run(command.arg(&file).arg("--out").arg(out(workers)));
            ended.expect_done();
            for said in ["largest", "trace", "negative", kind] {
                assert!(ended.stdout.contains(said), "{ended}");
            }
        }
        for name in ["nodes.parquet", "density.parquet", "summary.parquet"] {
            let bytes = |workers| std::fs::read(out(workers).join(name)).unwrap();
            assert!(bytes("1") == bytes("4"), "{kind} {name}");
        }

        let summary = Table::read(&out("1").join("summary.parquet"));
        let counts = Table::read(&output.join("posterior/blocks.parquet"));
        assert_eq!(summary.whole("n_spectra", 0), counts.whole("n_spectra", 0));
        assert_eq!(summary.text("kind", 0), kind);
        let (low, high) = (summary.number("smallest", 0), summary.number("largest", 0));
        assert!(are_extremes(&hessian, low, high), "{kind}: {low} {high}");
        // Of complete Krylov spaces all is known.
        for share in ["negative_share", "negative_share_least", "negative_share_most"] {
            assert_eq!(summary.number(share, 0) > 0.0, kind == "hessian", "{share}");
        }

        // A complete Krylov space: the first probe's nodes are the eigenvalues, and their moments those of the matrix.
        let nodes = Table::read(&out("1").join("nodes.parquet"));
        let first: Vec<usize> = (0..nodes.len()).filter(|&row| nodes.whole("probe", row) == 0).collect();
        let trace: f64 = (0..P).map(|i| hessian[i][i]).sum();
        let squares: f64 = hessian.iter().flatten().map(|h| h * h).sum();
        let values: Vec<f64> = first.iter().map(|&row| nodes.number("value", row)).collect();
        let weights: f64 = first.iter().map(|&row| nodes.number("weight", row)).sum();
        assert!((weights - 1.0).abs() < 1e-12);
        assert!((values.iter().sum::<f64>() / trace - 1.0).abs() < 1e-9, "{kind}");
        assert!(
            (values.iter().map(|v| v * v).sum::<f64>() / squares - 1.0).abs() < 1e-9,
            "{kind}"
        );
        let error = summary.number("trace_std_error", 0);
        assert!((summary.number("trace", 0) - trace).abs() < 6.0 * error, "{kind}");
        let density = Table::read(&out("1").join("density.parquet"));
        assert!((density.number("cumulative", density.len() - 1) - 1.0).abs() < 1e-9);
    }

    let file = folder.join("ggn.toml");
    let again = run(fisherflow()
        .arg("spectrum")
        .arg(&file)
        .arg("--out")
        .arg(folder.join("ggn-1")));
    again.expect(2, &["summary.parquet is there already", "--overwrite"]);
    run(fisherflow().arg("spectrum").arg(&file).args(["--probes", "0"])).expect(2, &["--probes takes at least 1"]);
    run(fisherflow().arg("spectrum").arg(&file).args(["--kind", "fisher"])).expect(2, &["--kind fisher", "ggn"]);
    run(fisherflow()
        .arg("spectrum")
        .arg(&file)
        .args(["--steps", "2", "--kind", "hessian"]))
    .expect_done();
    assert!(folder.join("ggn-spectrum/summary.parquet").exists());
}

#[test]
fn a_true_hessian_is_inverted_with_the_prior_that_its_refusal_names() {
    let folder = prepared();
    let folder = folder.path();
    let file = run_file(folder, "out", "structure = \"full\"\nkind = \"hessian\"");
    let with = |prior: f64, name: &str| {
        let toml = file
            .toml()
            .replace("precision = 2.0", &format!("precision = {prior:e}"));
        let toml = toml.replace("/out\"", &format!("/{name}\""));
        let path = folder.join(format!("{name}.toml"));
        std::fs::write(&path, toml).unwrap();
        run(fisherflow().arg("run").arg(&path))
    };
    let refused = with(1e-6, "small");
    refused.expect(
        1,
        &["block layers.0+layers.2", "indefinite", "curvature.kind = \"ggn\""],
    );
    let (_, rest) = refused.stderr.split_once("Raise the prior precision above ").unwrap();
    let needed: f64 = rest.split(',').next().unwrap().parse().unwrap();
    with(needed * 0.999, "below").expect(1, &["indefinite"]);
    with(needed * 1.001, "above").expect_done();
}

#[test]
fn low_rank_with_all_eigenpairs_is_full_and_workers_change_no_bit() {
    let folder = prepared();
    let folder = folder.path();
    let full = Table::read(&output_of(folder, "full", "structure = \"full\"").join("predictions"));
    let all =
        Table::read(&output_of(folder, "all", "structure = \"low_rank\"\nrank = 500\npasses = 2").join("predictions"));
    assert_eq!(full.len(), all.len());
    for row in 0..full.len() {
        let (expected, found) = (full.list("cov_weights", row), all.list("cov_weights", row));
        let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (expected, found) in expected.iter().zip(found) {
            assert!((expected - found).abs() < 1e-8 * largest);
        }
    }
    let blocks = |name: &str| Table::read(&folder.join(name).join("posterior/blocks.parquet"));
    for column in ["log_det", "effective_parameters"] {
        let (expected, found) = (blocks("full").number(column, 0), blocks("all").number(column, 0));
        assert!((found / expected - 1.0).abs() < 1e-8, "{column}");
    }
    assert_eq!(blocks("all").text("structure", 0), "low_rank");

    let few = "structure = \"low_rank\"\nrank = 10\npasses = 6";
    let expected = digests(&output_of(folder, "few", few));
    let file = run_file(folder, "four", few).write(folder, "four");
    let ended = run(fisherflow().arg("run").arg(file).args(["-w", "4"]));
    ended.expect_done();
    assert!(ended.stdout.contains("10 eigenpairs hold"), "{ended}");
    assert_eq!(digests(&folder.join("four")), expected);
    let file = run_file(folder, "cluster", few).write(folder, "cluster");
    for ended in Processes::start(2, &file, 2).wait_all() {
        ended.expect_done();
    }
    assert_eq!(digests(&folder.join("cluster")), expected);
    // The largest eigenvalue is that of the dense matrix, within its residual.
    let stored = Table::read(&folder.join("few/posterior/hessian/block-000.parquet"));
    let of = |factor: &str| {
        let row = (0..stored.len())
            .find(|&row| stored.text("factor", row) == factor)
            .unwrap();
        stored.list("values", row)
    };
    let (values, residuals) = (of("eigenvalues"), of("residuals"));
    let hessian = dense(&folder.join("full"), "hessian");
    assert!(is_positive(&hessian, -1.0, values[0] + residuals[0] + 1e-9 * values[0]));
    assert!(!is_positive(&hessian, -1.0, values[0] * (1.0 - 1e-9)));
    assert!(values.is_sorted_by(|a, b| a >= b) && values.len() == 10);
}

/// Killed as the third pass is committed, a run has made two of them; killed in the curvature pass, all three. What the last came to is kept.
#[test]
fn a_pass_for_eigenpairs_that_is_done_is_not_made_again() {
    let folder = prepared();
    let folder = folder.path();
    let lines = "structure = \"low_rank\"\nrank = 10\npasses = 3";
    let expected = digests(&output_of(folder, "undisturbed", lines));
    for (at, made) in [("group-written:3", &["eigenpairs 3"][..]), ("group-summed:1", &[])] {
        let name = at.replace(':', "-");
        let file = run_file(folder, &name, lines).write(folder, &name);
        let killed = fisherflow_on("run", &file, &["--fail-at", at]);
        assert_eq!(killed.code, None, "{killed}");
        let kept = std::fs::read_dir(folder.join(&name).join("stages/groups/eigenpairs")).unwrap();
        let kept = kept.map(|entry| entry.unwrap().path());
        let is_done = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "done");
        assert_eq!(kept.filter(is_done).count(), 1, "{at}");
        let ended = fisherflow_on("run", &file, &["-w", "2", "-v", "--log", "json"]);
        ended.expect_done();
        let logged = ended.stderr.lines();
        let logged = logged.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let passes: BTreeSet<String> = logged
            .filter_map(|fields| fields["pass"].as_str().map(str::to_owned))
            .collect();
        let begun: Vec<&String> = passes.iter().filter(|pass| pass.starts_with("eigenpairs")).collect();
        assert_eq!(begun, made, "{at}\n{ended}");
        assert!(passes.contains("curvature"), "{ended}");
        assert_eq!(digests(&folder.join(&name)), expected, "{at}");
    }
}

#[test]
fn hessians_of_the_outputs_agree_with_one_another() {
    let folder = prepared();
    let folder = folder.path();
    let file = run_file(folder, "out", "structure = \"kfac\"").write(folder, "out");
    let star = simulated(17, 5, 1)[0].id.clone().unwrap();
    let ask = |more: &[&str]| {
        let mut command = fisherflow();
        command
            .arg("output-hessian")
            .arg(&file)
            .args(["--id", &star])
            .args(more);
        run(&mut command)
    };
    ask(&["--dense"]).expect_done();
    ask(&["--diagonal"]).expect_done();
    let table = |name: &str| Table::read(&folder.join("out-output-hessian").join(name));
    let (rows, diagonal) = (table("dense.parquet"), table("diagonal.parquet"));
    assert_eq!((rows.len(), diagonal.len()), (3 * P, 3 * P));
    let matrix = |label: usize| -> Vec<Vec<f64>> { (0..P).map(|i| rows.list("values", label * P + i)).collect() };
    for (label, (name, _)) in LABELS.iter().enumerate() {
        let h = matrix(label);
        let largest = h.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
        assert!(largest > 1e-3 * SCALE[label], "a tanh network bends");
        for i in 0..P {
            assert_eq!(diagonal.text("label", label * P + i), *name);
            assert!((diagonal.number("value", label * P + i) - h[i][i]).abs() < 1e-12 * largest);
            for (j, row) in h.iter().enumerate() {
                assert!((h[i][j] - row[i]).abs() < 1e-12 * largest);
            }
        }
    }
    assert_eq!(
        (rows.text("layer", 17), rows.whole("out_index", 17)),
        ("layers.0".to_owned(), 0)
    );
    assert!(rows.is_null("in_index", 17) && rows.whole("in_index", 18) == 0);

    let v: Vec<f64> = (0..P).map(|i| (i as f64 * 0.7).cos()).collect();
    let header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({P},), }}\n");
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.as_bytes());
    npy.extend(v.iter().flat_map(|v| v.to_le_bytes()));
    let vector = folder.join("v.npy");
    std::fs::write(&vector, &npy).unwrap();
    ask(&["--label", "logg", "--product", vector.to_str().unwrap()]).expect_done();
    let product = table("product.parquet");
    let expected = times(&matrix(1), &v);
    assert_eq!(product.len(), P);
    for (i, expected) in expected.iter().enumerate() {
        assert!((product.number("value", i) - expected).abs() < 1e-11 * SCALE[1]);
    }
    assert!(convention(&product)["hessian"].as_str().unwrap().contains("OUTPUT"));

    ask(&["--dense"]).expect(2, &["is there already", "--overwrite"]);
    ask(&["--dense", "--overwrite"]).expect_done();
    ask(&["--diagonal", "--overwrite", "--label", "mass"]).expect(2, &["no label \"mass\"", "teff, logg, fe_h"]);
    ask(&["--diagonal", "--overwrite", "--id", "nobody"]).expect(3, &["no star \"nobody\""]);
    assert_eq!(ask(&[]).code, Some(2));
    let refused = |bytes: &[u8], said: &str| {
        std::fs::write(&vector, bytes).unwrap();
        ask(&["--product", vector.to_str().unwrap(), "--overwrite"]).expect(3, &["v.npy is no vector", said]);
    };
    refused(&npy[..npy.len() - 8], "cut short");
    let last = npy.len() - 8;
    npy[last..].copy_from_slice(&f64::NAN.to_le_bytes());
    refused(&npy, &format!("value {} (counted from 0) is NaN", P - 1));
}

/// What has no prediction in the tables has no Hessian either, before and after the fit.
#[test]
fn of_a_star_out_of_range_there_is_no_hessian() {
    let folder = prepared();
    let folder = folder.path();
    let mut spectra = simulated(17, 0, 180);
    spectra[5].flux.as_mut().unwrap()[3] = 1e6;
    let star = spectra[5].id.clone().unwrap();
    write_objects(&folder.join("far"), &spectra, 60);
    let mut run_file = run_file(folder, "out", "structure = \"kfac\"");
    run_file.catalogue = folder.join("far").to_str().unwrap().to_owned();
    let file = run_file.write(folder, "out");
    let refused = || {
        let mut command = fisherflow();
        command.arg("output-hessian").arg(&file);
        let ended = run(command.args(["--diagonal", "--id", &star]));
        ended.expect(3, &["has no prediction (FLUX_OUT_OF_RANGE, pixel 3: 1.000e6)"]);
        assert!(!folder.join("out-output-hessian").exists(), "nothing is written");
    };
    refused();
    run(fisherflow().arg("run").arg(&file)).expect_done();
    refused();
}

/// A star may have several spectra: none is taken where it is not said which, and the table says which was.
#[test]
fn of_a_star_with_several_spectra_the_hessian_is_of_the_one_that_is_named() {
    let folder = prepared();
    let folder = folder.path();
    let mut spectra = simulated(17, 0, 60);
    for at in [3, 25, 41] {
        spectra[at].id = Some("twice-seen".to_owned());
    }
    spectra[50].id = Some("once-bad".to_owned());
    spectra[51].id = Some("once-bad".to_owned());
    spectra[51].flux = None;
    // Row groups of 8: a row's position in its file is not that in its row group.
    write_catalogue(&folder.join("visits"), "a.parquet", &spectra[..30], 8);
    write_catalogue(&folder.join("visits/night=2"), "b.parquet", &spectra[30..], 8);
    let predicting = run_file(folder, "out", "structure = \"kfac\"").predicting(folder, "visits/**/*.parquet");
    let file = predicting.write(folder, "out");
    let ask = |more: &[&str]| {
        let mut command = fisherflow();
        command
            .arg("output-hessian")
            .arg(&file)
            .args(["--diagonal", "--overwrite"]);
        run(command.args(["--label", "teff"]).args(more))
    };
    let table = || Table::read(&folder.join("out-output-hessian/diagonal.parquet"));
    let places = |table: &Table| -> Vec<(String, String, i64)> {
        (0..table.len())
            .step_by(P)
            .map(|at| (table.text("id", at), table.text("file", at), table.whole("row", at)))
            .collect()
    };
    let values = |table: &Table, star: usize| -> Vec<f64> {
        (0..P).map(|weight| table.number("value", star * P + weight)).collect()
    };
    let (a, b) = ("a.parquet", "night=2/b.parquet");

    let several = [
        "file a.parquet row 3",
        "file a.parquet row 25",
        "file night=2/b.parquet row 11",
    ];
    let ended = ask(&["--id", "twice-seen"]);
    ended.expect(2, &["3 spectra", "--file and --row", "--all-visits"]);
    ended.expect(2, &several);
    ask(&["--id", "twice-seen", "--file", a]).expect(2, &["2 spectra", "in its file a.parquet"]);
    assert!(!folder.join("out-output-hessian").exists(), "nothing is written");

    let mut one_by_one = Vec::new();
    for (place, key) in [(a, "3"), (a, "25"), (b, "11")].iter().zip([3, 25, 11]) {
        let ((file, row), key) = (place, key);
        ask(&["--file", file, "--row", row]).expect_done();
        let without_id = table();
        let expected = [("twice-seen".to_owned(), (*file).to_owned(), key)];
        assert_eq!(places(&without_id), expected);
        ask(&["--id", "twice-seen", "--file", file, "--row", row]).expect_done();
        assert_eq!(places(&table()), expected);
        assert_eq!(values(&table(), 0), values(&without_id, 0));
        one_by_one.push(values(&without_id, 0));
    }
    assert!(one_by_one[0] != one_by_one[1] && one_by_one[1] != one_by_one[2]);
    // The file goes without saying where the star has one such row.
    ask(&["--id", "twice-seen", "--row", "11"]).expect_done();
    assert_eq!(values(&table(), 0), one_by_one[2]);

    let other = simulated(17, 7, 1)[0].id.clone().unwrap();
    ask(&["--id", &other, "--id", "twice-seen", "--all-visits"]).expect_done();
    let all = table();
    let expected = [
        (&*other, a, 7),
        ("twice-seen", a, 3),
        ("twice-seen", a, 25),
        ("twice-seen", b, 11),
    ];
    assert_eq!(
        places(&all),
        expected.map(|(id, file, row)| (id.to_owned(), file.to_owned(), row))
    );
    for (star, expected) in one_by_one.iter().enumerate() {
        assert_eq!(&values(&all, star + 1), expected);
    }
    assert!(all.metadata["fisherflow.row_key"].contains("from 0"));

    // What is not there, or not enough.
    ask(&["--row", "11"]).expect(2, &["2 files", "row 11", "--file"]);
    ask(&["--file", a, "--row", "30"]).expect(3, &["no row 30 in its file a.parquet", "from 0"]);
    ask(&["--id", "twice-seen", "--row", "4"]).expect(3, &["no star \"twice-seen\"", "at row 4"]);
    ask(&["--file", "b.parquet", "--row", "0"]).expect(3, &["no file \"b.parquet\"", "a.parquet, night=2/b.parquet"]);
    for missing in [
        &["--file", a][..],
        &["--file", a, "--all-visits"],
        &["--row", "3", "--all-visits"],
    ] {
        assert_eq!(ask(missing).code, Some(2), "{missing:?}");
    }

    // A visit without a prediction is not passed over in silence.
    ask(&["--file", b, "--row", "21"]).expect(3, &["star \"once-bad\", file night=2/b.parquet, row 21", "FLUX_NULL"]);
    let ended = ask(&["--id", "once-bad", "--all-visits"]);
    ended.expect(0, &["row 21 has no prediction (FLUX_NULL), and is left out"]);
    assert_eq!(places(&table()), [("once-bad".to_owned(), b.to_owned(), 20)]);
}

#[test]
fn what_cannot_be_is_refused_with_its_remedy() {
    let folder = prepared();
    let folder = folder.path();
    for (lines, said) in [
        (
            "structure = \"full\"\nkind = \"fisher\"",
            &["`curvature.kind`", "\"ggn\""][..],
        ),
        ("structure = \"kfac\"\nrank = 8", &["`curvature.rank`", "low_rank"]),
        (
            "structure = \"low_rank\"\npasses = 0",
            &["`curvature.passes`", "at least 1"],
        ),
        (
            "structure = \"kfac\"\nkind = \"hessian\"",
            &["layers.0", "\"kfac\"", "\"full\" or \"block\""],
        ),
    ] {
        let file = run_file(folder, "out", lines).write(folder, "refused");
        run(fisherflow().arg("run").arg(&file)).expect(2, said);
    }
    for (lines, said) in [
        (
            "structure = \"low_rank\"",
            &["low_rank", "prior.precision", "one in [prior.layers] is not enough"][..],
        ),
        (
            "structure = \"full\"\nkind = \"hessian\"",
            &["negative", "prior.precision"],
        ),
    ] {
        let toml = run_file(folder, "out", lines)
            .toml()
            .replace("precision = 2.0", "precision = \"evidence\"");
        let file = folder.join("refused.toml");
        std::fs::write(&file, toml).unwrap();
        run(fisherflow().arg("plan").arg(&file)).expect(2, said);
    }
    let mut file = run_file(folder, "out", "structure = \"kfac\"\nkind = \"empirical_fisher\"");
    file.noise = "covariance = [[100.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]]".to_owned();
    let toml = file.toml().replace("labels = [\"teff\", \"logg\", \"fe_h\"]\n", "");
    let path = folder.join("refused.toml");
    std::fs::write(&path, toml).unwrap();
    run(fisherflow().arg("plan").arg(&path)).expect(2, &["catalogue.labels", "\"ggn\""]);
}
