//! Networks that cannot be read, or do not fit the catalogue.

use fisherflow_tests::{RunFile, fisherflow, he_normal, network, run};

use crate::{PIXELS, prepared, refused};

#[test]
fn a_network_file_that_cannot_be_read_is_named() {
    let bytes = he_normal(&[PIXELS, 6, 3]).to_safetensors().unwrap();
    let cases: [(&str, Vec<u8>); 4] = [
        ("cut", bytes[..bytes.len() - 100].to_vec()),
        ("head", bytes[..60].to_vec()),
        ("text", b"these are no tensors, but a letter to the editor".to_vec()),
        ("empty", Vec::new()),
    ];
    for (name, bytes) in cases {
        let folder = prepared();
        let mut run_file = RunFile::new(folder.path(), "out");
        let file = folder.path().join(format!("{name}.safetensors"));
        std::fs::write(&file, bytes).unwrap();
        run_file.network = file.to_str().unwrap().to_owned();
        refused(
            folder.path(),
            &run_file,
            3,
            &[&run_file.network, "not a safetensors file, or a damaged one"],
        );
        assert!(!folder.path().join("out").exists());
    }
}

#[test]
fn a_network_that_is_not_there_is_named() {
    let folder = prepared();
    let mut run_file = RunFile::new(folder.path(), "out");
    run_file.network = folder.path().join("missing.safetensors").to_str().unwrap().to_owned();
    refused(folder.path(), &run_file, 3, &["missing.safetensors", "does not exist"]);
}

#[test]
fn another_input_size_is_refused() {
    let folder = prepared();
    network(&folder.path().join("network.safetensors"), &[PIXELS + 7, 6, 3]);
    let said = ["24 pixels", "the network takes 31", "resample"];
    refused(folder.path(), &RunFile::new(folder.path(), "out"), 3, &said);
}

#[test]
fn another_number_of_labels_is_refused() {
    let folder = prepared();
    let toml = RunFile::new(folder.path(), "out").toml();
    let file = folder.path().join("two.toml");
    std::fs::write(
        &file,
        toml.replace(
            "labels = [\"teff\", \"logg\", \"fe_h\"]",
            "labels = [\"teff\", \"logg\"]",
        ),
    )
    .unwrap();
    let ended = run(fisherflow().arg("run").arg(&file));
    ended.expect(2, &["2 label columns", "3 labels (teff, logg, fe_h)"]);
    assert!(!folder.path().join("out").exists());
}

/// The names that the network file gives its outputs say which column is which.
#[test]
fn labels_in_another_order_than_the_network_s_are_refused() {
    let folder = prepared();
    let toml = RunFile::new(folder.path(), "out")
        .predicting(folder.path(), "catalogue")
        .toml();
    let (right, wrong) = (
        "labels = [\"teff\", \"logg\", \"fe_h\"]",
        "labels = [\"logg\", \"teff\", \"fe_h\"]",
    );
    let predicted = toml.replace("[predict]\n", &format!("[predict]\n{wrong}\n"));
    for (table, toml) in [("catalogue", toml.replace(right, wrong)), ("predict", predicted)] {
        let file = folder.path().join("swapped.toml");
        std::fs::write(&file, toml).unwrap();
        let key = format!("{table}.labels");
        let said = [
            key.as_str(),
            "[\"logg\", \"teff\", \"fe_h\"]",
            "[\"teff\", \"logg\", \"fe_h\"]",
            "in the network's order",
        ];
        for command in ["plan", "run"] {
            run(fisherflow().arg(command).arg(&file)).expect(2, &said);
        }
        assert!(!folder.path().join("out").exists());
    }
}

#[test]
fn a_layer_that_is_not_there_is_refused_with_the_nearest() {
    let folder = prepared();
    let mut run_file = RunFile::new(folder.path(), "out");
    run_file
        .curvature
        .push_str("\n[curvature.layers]\n\"layer.2\" = \"block\"");
    refused(folder.path(), &run_file, 2, &["layer.2", "layers.2"]);
}

/// The run file is at fault: its line can go.
#[test]
fn what_the_network_file_says_otherwise_is_a_wrong_run_file() {
    let folder = prepared();
    let toml = RunFile::new(folder.path(), "out").toml();
    let file = folder.path().join("otherwise.toml");
    for (lines, said) in [
        (
            "[network.labels]\nscale = [3.0, 3.0, 3.0]",
            [
                "the network file says its labels.scale is",
                "the run file says [3.0, 3.0, 3.0]; leave `labels.scale` out",
            ],
        ),
        (
            "[network.labels]\nnames = [\"a\", \"b\", \"c\"]",
            [
                "the network file says its labels.names is",
                "the run file says [\"a\", \"b\", \"c\"]; leave `labels.names` out",
            ],
        ),
        (
            "layers = [\"dense\", \"gelu\", \"dense\"]",
            ["the network file says its layers are", "leave `layers` out"],
        ),
    ] {
        std::fs::write(&file, toml.replace("[catalogue]", &format!("{lines}\n[catalogue]"))).unwrap();
        let ended = run(fisherflow().arg("run").arg(&file));
        ended.expect(2, &["network.safetensors", said[0], said[1]]);
        assert!(!folder.path().join("out").exists());
    }
}
