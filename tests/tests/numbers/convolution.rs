//! A convolutional network with layers without bias, end to end: every structure, the same bits on any workers, the dual form against the dense
//! one, and questions to its inverse.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use fisherflow_network::{Arithmetic, Description, LabelsDescription, Network, Precision, to_safetensors};
use fisherflow_tests::{LABELS, RunFile, Table, digests, fisherflow, run, simulated, write_objects};

const PIXELS: usize = 24;

/// Weights of each layer: convolutions of 1 to 3 channels (no bias) and 3 to 4, a dense layer without bias, and one with.
const WEIGHTS: [usize; 4] = [3 * 5, 4 * (3 * 4 + 1), 6 * 32, 3 * 7];

const SCALE: [f64; 3] = [520.0, 1.2, 0.78];

/// Numbers about 0.
fn numbers(n: usize, seed: usize, size: f64) -> Vec<f64> {
    (0..n)
        .map(|i| size * ((i + 31 * seed) as f64 * 1.7 + seed as f64).sin())
        .collect()
}

/// Three objects of 60 spectra, and a network: conv1d, silu, conv1d, silu, max_pool1d(2), flatten, dense, tanh, dense.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shapes: [(&str, &[usize]); 6] = [
        ("layers.0.weight", &[3, 1, 5]),
        ("layers.2.weight", &[4, 3, 4]),
        ("layers.2.bias", &[4]),
        ("layers.6.weight", &[6, 32]),
        ("layers.8.weight", &[3, 6]),
        ("layers.8.bias", &[3]),
    ];
    let values: Vec<Vec<f64>> = shapes
        .iter()
        .enumerate()
        .map(|(seed, (_, shape))| {
            let n: usize = shape.iter().product();
            numbers(n, seed, 1.5 / (n as f64 / shape[0] as f64).sqrt())
        })
        .collect();
    let arrays = shapes
        .iter()
        .zip(&values)
        .map(|((name, shape), values)| (*name, *shape, values.as_slice()));
    let bytes = to_safetensors(arrays, HashMap::new()).unwrap();
    let layers = [
        "input(24)",
        "conv1d",
        "silu",
        "conv1d",
        "silu",
        "max_pool1d(2)",
        "flatten(channels_last)",
        "dense",
        "tanh",
        "dense",
    ];
    let arithmetic = Arithmetic {
        precision: Precision::F64,
        threads: 1,
    };
    let said = Description {
        layers: Some(layers.map(str::to_owned).to_vec()),
        input_mean: Some(vec![1.0]),
        input_scale: Some(vec![0.1]),
        labels: Some(LabelsDescription {
            names: Some(LABELS.map(|(name, _)| name.to_owned()).to_vec()),
            units: Some(LABELS.map(|(_, unit)| unit.to_owned()).to_vec()),
            mean: Some(vec![4600.0, 2.4, -0.85]),
            scale: Some(SCALE.to_vec()),
        }),
    };
    let network = Network::from_safetensors(&bytes, &said, arithmetic).unwrap();
    std::fs::write(
        folder.path().join("network.safetensors"),
        network.to_safetensors().unwrap(),
    )
    .unwrap();
    write_objects(&folder.path().join("catalogue"), &simulated(PIXELS, 0, 180), 60);
    folder
}

/// Runs lines of `[curvature]` in f64 on some workers, and gives the output.
fn output_of(folder: &Path, name: &str, curvature: &str, workers: &str) -> PathBuf {
    let mut run_file = RunFile::new(folder, name);
    curvature.clone_into(&mut run_file.curvature);
    run_file.compute = "precision = \"f64\"\nbatch = 16\ngroup = 50".to_owned();
    let file = run_file.write(folder, name);
    run(fisherflow().arg("run").arg(file).args(["-w", workers])).expect_done();
    folder.join(name)
}

fn covariances(output: &Path) -> Vec<f64> {
    let table = Table::read(&output.join("predictions/part-00000.parquet"));
    (0..table.len())
        .flat_map(|row| table.list("cov_weights", row))
        .collect()
}

fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let apart = (found - expected).abs() / (SCALE[at % 9 / 3] * SCALE[at % 3]);
        assert!(apart < tolerance, "{at}: {found} {expected}");
    }
}

#[test]
fn every_structure_runs_with_the_same_bits_on_any_workers() {
    let folder = prepared();
    let folder = folder.path();
    let mut by_name = HashMap::new();
    for (name, curvature) in [
        ("full", "structure = \"full\""),
        ("dual", "structure = \"dual\""),
        ("block", "structure = \"block\""),
        ("diagonal", "structure = \"diagonal\""),
        ("ekfac", "structure = \"ekfac\""),
        ("low_rank", "structure = \"low_rank\"\nrank = 12"),
        ("expand", "structure = \"kfac\"\nweight_sharing = \"expand\""),
        ("reduce", "structure = \"kfac\"\nweight_sharing = \"reduce\""),
        ("fisher", "structure = \"kfac\"\nkind = \"empirical_fisher\""),
    ] {
        let one = output_of(folder, name, curvature, "1");
        let four = output_of(folder, &format!("{name}-four"), curvature, "4");
        assert_eq!(digests(&one), digests(&four), "{name}");
        by_name.insert(name, covariances(&one));
        assert!(by_name[name].iter().all(|v| v.is_finite()));
    }
    close(&by_name["dual"], &by_name["full"], 1e-9);
    assert!(by_name["expand"] != by_name["reduce"]);
}

/// Of layers whose positions share their weights and of others in one block, dense and through the rows of the Jacobian.
#[test]
fn both_exact_forms_answer_alike() {
    let folder = prepared();
    let folder = folder.path();
    let blocks = [("full", "structure = \"full\""), ("dual", "structure = \"dual\"")];
    let [full, dual] = blocks.map(|(name, curvature)| {
        let output = output_of(folder, name, curvature, "1");
        let mut command = fisherflow();
        command.arg("inverse").arg(&output).args([
            "--layer",
            "layers.0+layers.2+layers.6+layers.8",
            "--rows",
            "0,14,15,66,67,258,259,279",
            "--json",
        ]);
        let asked = run(&mut command);
        asked.expect_done();
        let answer: serde_json::Value = serde_json::from_str(&asked.stdout).unwrap();
        let rows = answer["values"].as_array().unwrap().clone();
        let numbers = rows.iter().flat_map(|row| row.as_array().unwrap().clone());
        numbers.map(|number| number.as_f64().unwrap()).collect::<Vec<f64>>()
    });
    let size = full.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    assert_eq!((full.len(), dual.len()), (64, 64));
    for (full, dual) in full.iter().zip(&dual) {
        assert!((full - dual).abs() < 1e-9 * size, "{full} {dual}");
    }
}

#[test]
fn an_inverse_has_no_bias_where_its_layer_has_none() {
    let folder = prepared();
    let folder = folder.path();
    let output = output_of(folder, "kfac", "structure = \"kfac\"", "1");
    let ask = |layer: &str, rows: &str| {
        let mut command = fisherflow();
        command
            .arg("inverse")
            .arg(&output)
            .args(["--layer", layer, "--rows", rows]);
        run(&mut command)
    };
    ask("layers.2", "1/bias").expect_done();
    ask("layers.2", "51").expect_done();
    ask("layers.2", "52").expect(2, &["no weight 52"]);
    ask("layers.0", "14").expect_done();
    ask("layers.0", "15").expect(2, &["no weight 15"]);
    ask("layers.0", "2/bias").expect(2, &["the layer has no bias"]);
    for (block, n_weights) in WEIGHTS.into_iter().enumerate() {
        let table = Table::read(&output.join(format!("posterior/marginal_variance/block-{block:03}.parquet")));
        assert_eq!(table.len(), n_weights, "block {block}");
        let biases = (0..table.len()).filter(|&row| table.is_null("in_index", row)).count();
        assert_eq!(biases, [0, 4, 0, 3][block], "block {block}");
    }
}

/// By README's formula, from `posterior/` alone.
#[test]
fn an_inverse_follows_from_its_factors_and_the_number_of_their_terms() {
    let folder = prepared();
    let folder = folder.path();
    for (sharing, positions) in [("expand", [20, 17, 1, 1]), ("reduce", [1; 4])] {
        let curvature = format!("structure = \"kfac\"\nweight_sharing = \"{sharing}\"");
        let posterior = output_of(folder, sharing, &curvature, "1").join("posterior");
        let blocks = Table::read(&posterior.join("blocks.parquet"));
        assert_eq!(blocks.len(), positions.len());
        for (block, positions) in positions.into_iter().enumerate() {
            let n_terms = blocks.whole("n_terms", block);
            assert_eq!(
                n_terms,
                positions * blocks.whole("n_spectra", block),
                "{sharing} {block}"
            );
            let (n, delta) = (n_terms as f64, blocks.number("prior_precision", block));
            let inverse = Table::read(&posterior.join(format!("inverse/block-{block:03}.parquet")));
            let of = |factor: &str| -> Vec<f64> {
                let rows = (0..inverse.len()).filter(|&row| inverse.text("factor", row) == factor);
                rows.flat_map(|row| inverse.list("values", row)).collect()
            };
            let (v, s) = (of("a_eigenvectors"), of("a_eigenvalues"));
            let (u, t) = (of("g_eigenvectors"), of("g_eigenvalues"));
            let written = Table::read(&posterior.join(format!("marginal_variance/block-{block:03}.parquet")));
            assert_eq!(written.len(), WEIGHTS[block]);
            for row in 0..written.len() {
                let (of_out, of_in) = (&u[row / s.len() * t.len()..], &v[row % s.len() * s.len()..]);
                let mut variance = 0.0;
                for (t, u) in t.iter().zip(of_out) {
                    for (s, v) in s.iter().zip(of_in) {
                        variance += (u * v).powi(2) / (t * s / n + delta);
                    }
                }
                let found = written.number("std_error", row).powi(2);
                assert!(
                    (found / variance - 1.0).abs() < 1e-9,
                    "{sharing} {block} {row}: {found} {variance}"
                );
            }
        }
    }
}
