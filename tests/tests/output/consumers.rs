//! An output with bad rows, as pandas, pyarrow, DuckDB and Polars read it; a network of Keras, and a table of FITS, as README.md has them written.

use std::path::Path;

use fisherflow_tests::{
    RunFile, Table, consumer, fisherflow, manifest, network, repository, run, simulated, write_objects,
};

const PIXELS: usize = 30;

#[test]
fn pandas_pyarrow_duckdb_and_polars_read_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &[PIXELS, 8, 5, 3]);
    write_objects(&folder.join("catalogue"), &simulated(PIXELS, 0, 160), 40);
    let mut stars = simulated(PIXELS, 1000, 70);
    stars[4].flux = None;
    stars[11].flux.as_mut().unwrap()[3] = f32::NAN;
    stars[30].ivar = Some(vec![0.0; PIXELS]);
    stars[31].ivar.as_mut().unwrap()[..5].fill(0.0);
    // A whole part without one good star, and one of one star.
    for star in &mut stars[35..60] {
        star.flux = None;
    }
    write_objects(&folder.join("stars"), &stars, 20);
    let mut run_file = RunFile::new(folder, "out").predicting(folder, "stars");
    run_file.curvature =
        "structure = \"kfac\"\n[curvature.layers]\n\"layers.2\" = \"diagonal\"\n\"layers.4\" = \"block\"".to_owned();
    run_file.compute = "batch = 16\ngroup = 20".to_owned();
    run(fisherflow().arg("run").arg(run_file.write(folder, "run"))).expect_done();

    let table = Table::read(&folder.join("out/predictions"));
    assert_eq!(table.len(), 70);
    let bad = (0..70).filter(|row| table.flag("flag_bad", *row)).count();
    assert_eq!(bad, 3 + 25);

    let arguments = [folder.join("out").to_str().unwrap().to_owned(), PIXELS.to_string()];
    let Some(found) = consumer("read_everywhere.py", arguments) else {
        return;
    };
    println!("{found:#}");
    assert_eq!(found["readers"], 4);
    assert_eq!(found["stars"], 70);
    assert_eq!(found["bad"], bad);
}

/// Sums are over the fit's catalogue, whatever is predicted.
#[test]
fn every_file_names_the_catalogue_of_the_fit_and_those_of_stars_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &[PIXELS, 8, 3]);
    write_objects(&folder.join("catalogue"), &simulated(PIXELS, 0, 60), 30);
    write_objects(&folder.join("stars"), &simulated(PIXELS, 9000, 20), 20);
    for (own, run_file) in [
        (false, RunFile::new(folder, "itself")),
        (true, RunFile::new(folder, "apart").predicting(folder, "stars")),
    ] {
        run(fisherflow().arg("run").arg(run_file.write(folder, "run"))).expect_done();
        let output = Path::new(&run_file.output);
        let inputs = manifest(output)["inputs"].clone();
        let etags = |input: usize| inputs[input]["etags_sha256"].as_str().unwrap().to_owned();
        let (fit, predicted) = (etags(1), etags(if own { 2 } else { 1 }));
        assert_eq!(fit != predicted, own, "{inputs}");
        for (file, of_stars) in [
            ("posterior/hessian/block-000.parquet", false),
            ("posterior/inverse/block-000.parquet", false),
            ("posterior/marginal_variance/block-000.parquet", false),
            ("posterior/blocks.parquet", false),
            ("predictions/part-00000.parquet", true),
            ("jacobians/part-00000.parquet", true),
        ] {
            let metadata = Table::read(&output.join(file)).metadata;
            assert_eq!(metadata["fisherflow.catalogue_etags_sha256"], fit, "{file}");
            let stars = metadata.get("fisherflow.predict_etags_sha256");
            assert_eq!(stars, of_stars.then_some(&predicted), "{file}");
        }
    }
}

#[test]
fn the_recipe_for_fits_writes_nulls_where_values_are_missing() {
    let Some(found) = consumer("fits_recipe.py", [repository().join("README.md")]) else {
        return;
    };
    let expected = serde_json::json!({
        "id": ["a", null, "c"],
        "flux": [[1.0, 2.0], [null, 4.0], [5.0, 6.0]],
        "bits": [[0, 1], [0, 0], [1, 0]],
        "logg": [4, null, 5],
        "covariance": [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]],
    });
    assert_eq!(found, expected);
}

#[test]
fn the_recipe_for_keras_writes_the_same_network_or_refuses_it() {
    let Some(found) = consumer("keras_recipe.py", [repository().join("README.md")]) else {
        return;
    };
    println!("{found:#}");
    for network in [
        "plain",
        "folded",
        "without gamma",
        "without beta",
        "with neither",
        "normalised first",
        "of several kinds",
    ] {
        assert!(
            found[network].as_f64().is_some_and(|apart| apart < 1e-12),
            "{network}: {found}"
        );
    }
    for (network, said) in [
        (
            "behind its activation",
            "batchnormalization is behind no layer to fold it into",
        ),
        (
            "behind another layer",
            "batchnormalization is behind no layer to fold it into",
        ),
        ("before all layers", "README says how it goes into the one after"),
        ("another layer", "prelu: PReLU has no counterpart"),
        ("normalised later", "normalization: Normalization has no counterpart"),
        ("normalised twice", "normalization: Normalization has no counterpart"),
        ("normalised back", "normalization: Normalization has no counterpart"),
        (
            "with a threshold",
            "relu: ReLU has no counterpart, or not with these settings",
        ),
        ("rescaled", "rescaling: Rescaling has no counterpart"),
        ("added", "add: Add has no counterpart"),
        (
            "padded pooling",
            "MaxPooling1D has no counterpart, or not with these settings",
        ),
        (
            "dilated",
            "conv1d: Conv1D has no counterpart, or not with these settings",
        ),
        ("causal", "conv1d: Conv1D has no counterpart"),
        ("grouped", "conv1d: Conv1D has no counterpart"),
    ] {
        assert!(
            found[network].as_str().is_some_and(|refused| refused.contains(said)),
            "{network}: {found}"
        );
    }
    let (weight, bias) = (serde_json::json!([2, 1, 3]), serde_json::json!([2]));
    let shapes = serde_json::json!({ "0.weight": weight, "0.bias": bias, "1.weight": weight, "1.bias": bias });
    let layers = serde_json::json!([
        "input(5)",
        "conv1d(stride=1, padding=valid)",
        "relu",
        "average_pool1d(4, stride=2)",
        "conv1d(stride=1, padding=same)",
        "relu",
        "flatten(channels_last)",
    ]);
    assert_eq!(found["convolutions"], serde_json::json!([shapes, layers]));
    // One that is not known is refused where the file is read.
    let further = serde_json::json!(["input(5)", "elu(0.5)", "leaky_relu(0.3)", "selu"]);
    assert_eq!(found["further"], further);
}
