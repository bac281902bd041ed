//! `inverse` and `export` on complete outputs of every structure, checked against the matrices of `posterior/` as any reader finds them.

use std::fs;
use std::path::{Path, PathBuf};

use fisherflow_tests::{Ended, RunFile, Table, fisherflow, network, run, simulated, write_objects};
use serde_json::Value;

const PIXELS: usize = 10;
/// Units of the hidden layer.
const UNITS: usize = 6;
const PRIOR: f64 = 2.0;
const N_SPECTRA: &str = "n_spectra";

/// A folder with complete outputs of these curvatures, by name.
fn outputs(of: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    network(&folder.path().join("network.safetensors"), &[PIXELS, UNITS, 3]);
    write_objects(&folder.path().join("catalogue"), &simulated(PIXELS, 0, 120), 60);
    let found = of.iter().map(|(name, curvature)| {
        let mut run_file = RunFile::new(folder.path(), name);
        run_file.curvature = (*curvature).to_owned();
        run_file.compute = "precision = \"f64\"\nbatch = 16\ngroup = 50".to_owned();
        run(fisherflow().arg("run").arg(run_file.write(folder.path(), name))).expect_done();
        folder.path().join(name)
    });
    let found = found.collect();
    (folder, found)
}

fn inverse(output: &Path, layer: &str, more: &[&str]) -> Ended {
    run(fisherflow()
        .arg("inverse")
        .arg(output)
        .args(["--layer", layer])
        .args(more))
}

fn json(ended: &Ended) -> Value {
    ended.expect_done();
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended}"))
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

/// The matrix of that factor in a file of `posterior/`, row after row.
fn stored(output: &Path, set: &str, block: usize, factor: &str) -> Vec<f64> {
    let table = Table::read(&output.join(format!("posterior/{set}/block-{block:03}.parquet")));
    let rows = (0..table.len()).filter(|&row| table.text("factor", row) == factor);
    rows.flat_map(|row| table.list("values", row)).collect()
}

/// `P^-1` of a block, dense, from what its structure stores.
fn dense(output: &Path, structure: &str, block: usize, n: f64) -> Vec<f64> {
    let of = |factor: &str| stored(output, "inverse", block, factor);
    match structure {
        "full" | "block" => of("dense"),
        "diagonal" => {
            let variance = of("diagonal");
            let p = variance.len();
            let mut dense = vec![0.0; p * p];
            for (i, v) in variance.iter().enumerate() {
                dense[i * (p + 1)] = *v;
            }
            dense
        }
        _ => {
            let (v, s) = (of("a_eigenvectors"), of("a_eigenvalues"));
            let (u, t) = (of("g_eigenvectors"), of("g_eigenvalues"));
            let (inputs, outputs) = (s.len(), t.len());
            let p = inputs * outputs;
            let element = |row: usize, col: usize| -> f64 {
                let pairs = (0..outputs).flat_map(|i| (0..inputs).map(move |j| (i, j)));
                pairs
                    .map(|(i, j)| {
                        let left = u[row / inputs * outputs + i] * v[row % inputs * inputs + j];
                        let right = u[col / inputs * outputs + i] * v[col % inputs * inputs + j];
                        left * right / (t[i] * s[j] / n + PRIOR)
                    })
                    .sum()
            };
            (0..p)
                .flat_map(|row| (0..p).map(move |col| (row, col)))
                .map(|(row, col)| element(row, col))
                .collect()
        }
    }
}

fn close(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0_f64, |size, v| size.max(v.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() < 1e-12 * size,
            "{what}: {found:e}, expected {expected:e}"
        );
    }
}

/// The structures that are exact over all layers together, one of them through every eigenpair, give what `full` stores.
#[test]
fn the_other_exact_structures_answer_as_the_full_one() {
    let p = UNITS * (PIXELS + 1) + 3 * (UNITS + 1);
    let low_rank = format!("structure = \"low_rank\"\nrank = {p}");
    let of = [
        ("full", "structure = \"full\""),
        ("dual", "structure = \"dual\""),
        ("low_rank", low_rank.as_str()),
    ];
    let (folder, outputs) = outputs(&of);
    let expected = dense(&outputs[0], "full", 0, 0.0);
    let size = expected.iter().fold(0.0_f64, |size, v| size.max(v.abs()));
    let same = |found: &[f64], expected: &[f64], what: &str| {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-9 * size,
                "{what}: {found:e}, expected {expected:e}"
            );
        }
    };
    let v: Vec<String> = (0..p).map(|i| format!("{:e}", (i as f64 * 0.3).cos())).collect();
    let vector = folder.path().join("v.txt");
    fs::write(&vector, v.join("\n")).unwrap();
    let block = "layers.0+layers.2";
    let solve = ["--quadratic", vector.to_str().unwrap(), "--json"];
    let quadratic = numbers(&json(&inverse(&outputs[0], block, &solve))["value"]);
    for output in &outputs[1..] {
        let what = output.display().to_string();
        let rows = json(&inverse(output, block, &["--rows", "0,70,3", "--cols", "*", "--json"]));
        let rows_expected: Vec<f64> = [0, 70, 3]
            .iter()
            .flat_map(|row| &expected[row * p..(row + 1) * p])
            .copied()
            .collect();
        same(&numbers(&rows["values"]), &rows_expected, &what);
        let first = UNITS * (PIXELS + 1);
        let part = json(&inverse(output, "layers.2", &["--rows", "2", "--cols", "*", "--json"]));
        same(
            &numbers(&part["values"]),
            &expected[(first + 2) * p + first..(first + 3) * p],
            &what,
        );
        let found = numbers(&json(&inverse(output, block, &solve))["value"]);
        assert!(
            (found[0] / quadratic[0] - 1.0).abs() < 1e-9,
            "{what}: {found:?} {quadratic:?}"
        );
    }
    let export = |output: &Path, to: &str| {
        let file = folder.path().join(format!(
            "{}-{to}.safetensors",
            output.file_name().unwrap().to_str().unwrap()
        ));
        run(fisherflow()
            .arg("export")
            .arg(output)
            .args(["--to", to])
            .arg("--out")
            .arg(file))
    };
    for (output, structure) in outputs.iter().zip(["full", "dual", "low_rank"]).skip(1) {
        export(output, "scipy").expect_done();
        export(output, "curvlinops").expect(2, &["curvlinops has no form for block", structure, "scipy"]);
    }
}

#[test]
fn every_structure_answers_for_its_stored_inverse() {
    let names = ["full", "block", "kfac", "diagonal"].map(|name| (name, format!("structure = \"{name}\"")));
    let (folder, outputs) = outputs(&names.each_ref().map(|(name, curvature)| (*name, curvature.as_str())));
    // The second layer: 3 x (6 + 1) weights; in a full block they come after those of the first.
    let (p, before) = (3 * (UNITS + 1), UNITS * (PIXELS + 1));
    let v: Vec<f64> = (0..p).map(|i| (i as f64 * 0.7).sin()).collect();
    let text: Vec<String> = v.iter().map(|v| format!("{v:e}")).collect();
    let vector = folder.path().join("v.txt");
    fs::write(&vector, text.join("\n")).unwrap();
    let vector = vector.to_str().unwrap();
    for ((structure, _), output) in names.iter().zip(&outputs) {
        let whole = json(&inverse(output, "layers.2", &["--rows", "0", "--json"]));
        let n = whole[N_SPECTRA].as_f64().unwrap();
        assert_eq!(
            (whole["structure"].as_str(), whole["n_weights"].as_u64()),
            (Some(*structure), Some(p as u64))
        );
        let (block, first) = if *structure == "full" { (0, before) } else { (1, 0) };
        let all = dense(output, structure, block, n);
        let side = all.len().isqrt();
        let m: Vec<f64> = (first..side)
            .flat_map(|row| all[row * side + first..(row + 1) * side].to_vec())
            .collect();
        assert_eq!(m.len(), p * p);

        let found = json(&inverse(
            output,
            "layers.2",
            &["--rows", "0:3,20", "--cols", "1/bias,*/0", "--json"],
        ));
        assert_eq!(numbers(&found["rows"]), [0.0, 1.0, 2.0, 20.0]);
        let cols = [13, 0, 7, 14];
        assert_eq!(numbers(&found["cols"]), cols.map(|col| col as f64));
        let expected: Vec<f64> = [0, 1, 2, 20]
            .iter()
            .flat_map(|row| cols.map(|col| m[row * p + col]))
            .collect();
        close(&numbers(&found["values"]), &expected, structure);

        let diagonal: Vec<f64> = (0..p).map(|i| m[i * (p + 1)]).collect();
        close(
            &numbers(&json(&inverse(output, "layers.2", &["--diagonal", "--json"]))["values"]),
            &diagonal,
            structure,
        );
        // The standard errors that the run wrote are its roots.
        let errors = Table::read(&output.join(format!("posterior/marginal_variance/block-{block:03}.parquet")));
        let squares: Vec<f64> = (first..side)
            .map(|row| errors.number("std_error", row).powi(2))
            .collect();
        close(&squares, &diagonal, structure);

        let product: Vec<f64> = m
            .chunks_exact(p)
            .map(|row| row.iter().zip(&v).map(|(m, v)| m * v).sum())
            .collect();
        let solved = folder.path().join(format!("{structure}.npy"));
        let solved = solved.to_str().unwrap();
        inverse(output, "layers.2", &["--solve", vector, "--out", solved]).expect_done();
        let bytes = fs::read(solved).unwrap();
        let (values, _) = bytes[bytes.len() - 8 * p..].as_chunks::<8>();
        close(
            &values.iter().map(|b| f64::from_le_bytes(*b)).collect::<Vec<_>>(),
            &product,
            structure,
        );
        let quadratic: f64 = product.iter().zip(&v).map(|(x, v)| x * v).sum();
        let found = json(&inverse(output, "layers.2", &["--quadratic", vector, "--json"]));
        close(&numbers(&found["value"]), &[quadratic], structure);

        // What one query writes another one reads.
        let parquet = folder.path().join(format!("{structure}.parquet"));
        let parquet_name = parquet.to_str().unwrap();
        inverse(output, "layers.2", &["--solve", vector, "--out", parquet_name]).expect_done();
        let table = Table::read(&parquet);
        assert_eq!(table.names(), ["weight", "layer", "out_index", "in_index", "value"]);
        assert!(table.is_null("in_index", 6) && table.whole("in_index", 5) == 5 && table.whole("out_index", 20) == 2);
        assert_eq!(table.metadata["fisherflow.layer"], "layers.2");
        assert!(table.metadata["fisherflow.convention"].contains("SUM over spectra"));
        let one = inverse(output, "layers.2", &["--quadratic", parquet_name]);
        let other = inverse(output, "layers.2", &["--quadratic", solved]);
        assert_eq!(one.stdout.lines().last(), other.stdout.lines().last());
    }
    // All of a full block by the names of its layers, as a table of any size.
    let table = folder.path().join("all.parquet");
    let name = table.to_str().unwrap();
    inverse(&outputs[0], "layers.0+layers.2", &["--rows", "*", "--out", name]).expect_done();
    let written = Table::read(&table);
    let expected = stored(&outputs[0], "inverse", 0, "dense");
    assert_eq!(written.len(), expected.len());
    for at in [0, 1, 87, expected.len() / 2, expected.len() - 1] {
        assert_eq!(written.number("value", at), expected[at]);
        assert_eq!(written.whole("col", at), (at % (before + p)) as i64);
    }
    let csv = folder.path().join("some.csv");
    inverse(
        &outputs[1],
        "layers.2",
        &["--rows", "2/4", "--out", csv.to_str().unwrap()],
    )
    .expect_done();
    assert!(fs::read_to_string(csv).unwrap().starts_with("row,col,value\n18,18,"));
}

#[test]
fn a_screen_of_elements_reads_as_a_table() {
    let (_folder, outputs) = outputs(&[("out", "structure = \"kfac\"")]);
    let shown = inverse(&outputs[0], "layers.2", &["--rows", "0:3,0/bias"]);
    shown.expect_done();
    for said in ["held as kfac", "H + 2 I", "weight", "0/bias", "e-"] {
        assert!(shown.stdout.contains(said), "{said}\n{shown}");
    }
}

#[test]
fn what_cannot_be_answered_is_said() {
    let (folder, outputs) = outputs(&[(
        "out",
        "structure = \"kfac\"\n[curvature.layers]\n\"layers.2\" = \"block\"",
    )]);
    let out = &outputs[0];
    inverse(out, "layer.2", &["--diagonal"]).expect(2, &["no dense layer `layer.2`", "nearest is `layers.2`"]);
    inverse(out, "layers.2", &["--rows", "0:22"]).expect(2, &["0:22 of layers.2", "no weight 21, there are 21"]);
    inverse(out, "layers.2", &["--rows", "3/0"]).expect(2, &["no output 3, there are 3"]);
    inverse(out, "layers.0", &["--rows", "*"]).expect(2, &["66 x 66 elements", "--out"]);
    inverse(out, "layers.2", &["--diagonal", "--out", "x.txt"]).expect(2, &[".parquet, .npy or .csv"]);
    let v = folder.path().join("v.txt");
    fs::write(&v, "1 2 3").unwrap();
    let name = v.to_str().unwrap();
    inverse(out, "layers.2", &["--solve", name]).expect(2, &["v.txt has 3 values", "21 weights"]);
    fs::write(&v, "1 two").unwrap();
    inverse(out, "layers.2", &["--solve", name]).expect(3, &["is no vector", "\"two\""]);
    fs::write(&v, "1 NaN").unwrap();
    inverse(out, "layers.2", &["--solve", name]).expect(3, &["is no vector", "value 1"]);
    inverse(out, "layers.2", &["--solve", "not/there.npy"]).expect(3, &["not/there.npy", "does not exist"]);
    let export = |to: &str, more: &[&str]| {
        let file = folder.path().join("x.safetensors");
        run(fisherflow()
            .arg("export")
            .arg(out)
            .args(["--to", to])
            .arg("--out")
            .arg(file)
            .args(more))
    };
    export("kronfluence", &[]).expect(2, &["kronfluence has no form for block layers.2", "hold it as kfac"]);
    export("laplace-torch", &["--reduction", "mean"]).expect(2, &["laplace-torch is not run with the mean"]);
    assert!(!folder.path().join("x.safetensors").exists());

    // What cannot be given is refused before a block is read.
    for (block, layer) in ["layers.0", "layers.2"].into_iter().enumerate() {
        fs::write(
            out.join(format!("posterior/inverse/block-{block:03}.parquet")),
            "damaged",
        )
        .unwrap();
        inverse(out, layer, &["--diagonal", "--out", "x.txt"]).expect(2, &["x.txt: its name must end in .parquet"]);
    }
    inverse(out, "layers.0", &["--rows", "*"]).expect(2, &["66 x 66 elements do not fit on a screen"]);
    let rows = ["*"; 152].join(",");
    let file = folder.path().join("all.npy");
    inverse(out, "layers.0", &["--rows", &rows, "--out", file.to_str().unwrap()])
        .expect(2, &["10032 x 10032 elements are too many at once, at most 100,000,000"]);

    fs::remove_file(out.join("posterior/inverse/block-001.parquet")).unwrap();
    inverse(out, "layers.2", &["--diagonal"]).expect(3, &["block-001.parquet", "is missing", "--overwrite"]);
    let file = out.join("manifest.json");
    let mut other: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    other["version"] = Value::from(99);
    fs::write(&file, other.to_string()).unwrap();
    let said = ["manifest.json is of version 99", "use the one that wrote it"];
    inverse(out, "layers.2", &["--diagonal"]).expect(3, &said);
    export("kronfluence", &[]).expect(3, &said);
    run(fisherflow().arg("report").arg(out)).expect(3, &said);
    let told = run(fisherflow().arg("inspect").arg(out));
    told.expect_done();
    assert!(
        !told.stdout.contains("log det") && told.stderr.contains(said[0]),
        "{told}"
    );
    fs::remove_file(file).unwrap();
    inverse(out, "layers.2", &["--diagonal"]).expect(3, &["has no manifest.json", "finish its run"]);
    inverse(&folder.path().join("nothing"), "layers.2", &["--diagonal"]).expect(3, &["is no output of fisherflow"]);
}

/// A tensor of a safetensors file of doubles, and the file's metadata.
fn tensor(bytes: &[u8], name: &str) -> (Vec<usize>, Vec<f64>, Value) {
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + size]).unwrap();
    let entry = &header[name];
    assert_eq!(entry["dtype"], "F64", "{name} in {header}");
    let at = numbers(&entry["data_offsets"]);
    let (values, _) = bytes[8 + size + at[0] as usize..8 + size + at[1] as usize].as_chunks::<8>();
    (
        numbers(&entry["shape"]).iter().map(|side| *side as usize).collect(),
        values.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        header["__metadata__"].clone(),
    )
}

#[test]
fn an_export_is_the_stored_sums_in_the_peers_convention() {
    let (folder, outputs) = outputs(&[
        ("kfac", "structure = \"kfac\""),
        ("full", "structure = \"full\""),
        ("diagonal", "structure = \"diagonal\""),
        ("fisher", "structure = \"kfac\"\nkind = \"empirical_fisher\""),
    ]);
    // Its factor is another one.
    let mut of_fisher = fisherflow();
    of_fisher
        .arg("export")
        .arg(&outputs[3])
        .args(["--to", "curvlinops", "--out"]);
    run(of_fisher.arg(folder.path().join("x.safetensors"))).expect(2, &["is the empirical Fisher"]);
    let export = |output: &Path, to: &str| {
        let file = folder.path().join(format!("{to}.safetensors"));
        run(fisherflow()
            .arg("export")
            .arg(output)
            .args(["--to", to])
            .arg("--out")
            .arg(&file))
        .expect_done();
        fs::read(file).unwrap()
    };
    let counted = fisherflow_tests::counts(&outputs[0])["fit_in_sums"] as f64;
    let scaled = |values: &[f64], factor: f64| values.iter().map(|v| v * factor).collect::<Vec<_>>();
    let (a, g) = (
        stored(&outputs[0], "hessian", 1, "kron_a"),
        stored(&outputs[0], "hessian", 1, "kron_g"),
    );

    let bytes = export(&outputs[0], "curvlinops");
    let (shape, found, facts) = tensor(&bytes, "layers.2.kron_a");
    assert_eq!(shape, [UNITS + 1, UNITS + 1]);
    close(&found, &scaled(&a, 1.0 / counted), "A");
    close(&tensor(&bytes, "layers.2.kron_g").1, &scaled(&g, 2.0), "G");
    assert_eq!(
        (
            facts["peer"].as_str(),
            facts["reduction"].as_str(),
            facts["damping.layers.2"].as_str()
        ),
        (Some("curvlinops"), Some("sum"), Some("4e0"))
    );
    assert_eq!(facts["n_spectra"], counted.to_string());

    let bytes = export(&outputs[0], "laplace-torch");
    let (shape, found, _) = tensor(&bytes, "layers.2.weight.kron_a");
    assert_eq!(shape, [UNITS, UNITS]);
    let of_weights: Vec<f64> = a
        .chunks_exact(UNITS + 1)
        .take(UNITS)
        .flat_map(|row| &row[..UNITS])
        .copied()
        .collect();
    close(&found, &scaled(&of_weights, 1.0 / (counted * 2.0_f64.sqrt())), "A");
    close(&tensor(&bytes, "layers.2.bias.kron_g").1, &g, "bias");

    // From ours, [W | b] row by row, to torch's: W, then b.
    let place = |layer: usize, at: usize| {
        let (inputs, n_outputs, start) = [(PIXELS, UNITS, 0), (UNITS, 3, UNITS * (PIXELS + 1))][layer];
        match at < inputs * n_outputs {
            true => start + at / inputs * (inputs + 1) + at % inputs,
            false => start + (at - inputs * n_outputs) * (inputs + 1) + inputs,
        }
    };
    let sizes = [UNITS * (PIXELS + 1), 3 * (UNITS + 1)];
    let order: Vec<usize> = [0, 1]
        .into_iter()
        .flat_map(|l| (0..sizes[l]).map(move |at| place(l, at)))
        .collect();
    let p = order.len();
    let inverse = stored(&outputs[1], "inverse", 0, "dense");
    let turned: Vec<f64> = order
        .iter()
        .flat_map(|i| order.iter().map(|j| inverse[i * p + j]).collect::<Vec<_>>())
        .collect();
    let (shape, found, facts) = tensor(&export(&outputs[1], "scipy"), "layers.0+layers.2.hess_inv");
    assert_eq!((shape, facts["reduction"].as_str()), (vec![p, p], Some("mean")));
    close(&found, &scaled(&turned, counted * 3.0 / 2.0), "hess_inv");

    let diagonal = stored(&outputs[2], "hessian", 1, "diagonal");
    let bytes = export(&outputs[2], "backpack");
    let weights: Vec<f64> = diagonal
        .chunks_exact(UNITS + 1)
        .flat_map(|row| &row[..UNITS])
        .copied()
        .collect();
    close(
        &tensor(&bytes, "layers.2.weight.diagonal").1,
        &scaled(&weights, 2.0),
        "diagonal",
    );
}
