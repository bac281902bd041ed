//! What is read: every key, the defaults, and the reference that documents them.

use fisherflow_curvature::{BlockOptions, StructureKind, WeightSharing};
use fisherflow_dataflow::{Certification, Compute, Prior, StructureChoice};
use fisherflow_network::{Activation, Description, Precision, Processor};
use fisherflow_spectra::{FluxError, LabelErrors, Mask};
use fisherflow_store::{OnBadObject, Patience};

use super::*;
use crate::run_file::{PredictTable, TABLES};

#[test]
fn patience_with_a_store_is_read() {
    assert_eq!(parse(LEAST).unwrap().store, Patience::default());
    let told = format!(
        "{LEAST}[store]\nretries = 3\nretry_seconds = 60\ntimeout_seconds = 2.5\nconnect_timeout_seconds = 1\n"
    );
    let told = parse(&told).unwrap().store;
    let seconds = [told.retry_for, told.timeout, told.connect_timeout].map(|time| time.as_secs_f64());
    assert_eq!((told.retries, seconds), (3, [60.0, 2.5, 1.0]));
    let refused = parse(&format!("{LEAST}[store]\ntimeout_seconds = 0\n")).unwrap_err();
    assert!(
        refused.contains("`store.timeout_seconds` is 0, expected seconds above 0"),
        "{refused}"
    );
}

#[test]
fn every_key_of_the_contract_is_read() {
    let run = parse(WHOLE).unwrap();
    assert_eq!(run.network.uri, "network.safetensors");
    let said = run.network.said;
    assert_eq!(said.layers.unwrap(), ["dense", "relu", "dense"]);
    assert_eq!(said.input_mean.unwrap(), [1.0]);
    assert_eq!(said.input_scale.unwrap(), [0.1]);
    let labels = said.labels.unwrap();
    assert_eq!(labels.names.unwrap()[2], "fe_h");
    assert_eq!(labels.units.unwrap()[0], "K");
    assert_eq!(labels.mean.unwrap(), [4700.0, 2.3, -0.2]);
    assert_eq!(labels.scale.unwrap(), [500.0, 0.8, 0.3]);

    let columns = &run.catalogue.columns;
    assert_eq!(run.catalogue.uri, "s3://survey/training/*.parquet");
    assert_eq!(columns.error, FluxError::Sigma("flux_err".to_owned()));
    let mask = Mask {
        column: "mask".to_owned(),
        bad_bits: vec![0, 1, 3],
    };
    assert_eq!(columns.mask, Some(mask.clone()));
    assert_eq!(columns.labels, ["teff", "logg", "fe_h"]);
    let errors = ["e_teff", "e_logg", "e_fe_h"].map(str::to_owned).to_vec();
    assert_eq!(columns.label_errors, LabelErrors::Sigma(errors));
    assert_eq!(columns.holdout_group.as_deref(), Some("source"));
    assert!(columns.keep.is_empty());
    assert_eq!(run.catalogue.on_bad_object, OnBadObject::Fail);

    let predicted = run.predict.catalogue.unwrap();
    assert!(run.predict.jacobians);
    assert_eq!(predicted.uri, "s3://survey/dr17/*.parquet");
    assert_eq!(predicted.columns.mask, Some(mask));
    assert_eq!(predicted.columns.keep, ["snr"]);

    let curvature = run.curvature;
    assert_eq!(curvature.structure, StructureKind::Kfac.into());
    assert_eq!(curvature.by_layer["layers.6"], StructureKind::Block);
    assert_eq!(curvature.options, BlockOptions::default());
    let chosen = with(
        WHOLE,
        "structure = \"kfac\"",
        "structure = \"ekfac\"\nweight_sharing = \"reduce\"\nsplit_bias = true",
    );
    let curvature = parse(&chosen).unwrap().curvature;
    assert_eq!(curvature.structure, StructureKind::Ekfac.into());
    let options = BlockOptions {
        weight_sharing: WeightSharing::Reduce,
        split_bias: true,
    };
    assert_eq!(curvature.options, options);
    assert_eq!(run.noise.covariance, None);
    assert_eq!(run.noise.holdout_fraction, 0.2);
    assert_eq!(run.prior.unwrap().precision, Prior::Fixed(1.5));
    assert_eq!(run.compute.arithmetic.precision, Precision::F32);
    assert_eq!(run.compute.group, Some(2048));
    assert_eq!(run.output.unwrap().uri, "out/spex");

    let train = run.train.unwrap();
    assert_eq!(train.hidden, [2048, 1024, 512, 256, 128, 32]);
    assert_eq!((train.epochs, train.batch, train.patience), (30, 64, Some(5)));
    assert_eq!(train.learning_rate, 0.0008);
    assert_eq!(train.activation, Activation::Relu);
}

#[test]
fn a_gpu_takes_larger_batches_unless_it_is_told() {
    let compute = |said: &str| parse(&format!("{LEAST}\n[compute]\n{said}")).unwrap().compute;
    let (cpu, gpu) = (compute("device = \"cpu\""), compute("device = \"cuda\""));
    assert_eq!((cpu.processor, cpu.batch), (Processor::Cpu, 512));
    assert_eq!((gpu.processor, gpu.batch), (Processor::Cuda, 4096));
    let precisions = [&cpu, &gpu].map(|compute| compute.arithmetic.precision);
    assert_eq!(precisions, [Precision::Auto, Precision::F32]);
    assert_eq!(compute("device = \"cuda\"\nbatch = 64").batch, 64);
}

#[test]
fn defaults_are_the_documented_ones() {
    let run = parse(LEAST).unwrap();
    assert_eq!(run.network.said, Description::default());
    let empty = parse(&with(LEAST, "[catalogue]", "[network.labels]\n[catalogue]")).unwrap();
    assert_eq!(empty.network.said, Description::default());
    assert_eq!(run.catalogue.columns.error, FluxError::Ivar("ivar".to_owned()));
    assert_eq!(run.catalogue.columns.label_errors, LabelErrors::None);
    assert_eq!(run.catalogue.on_bad_object, OnBadObject::Fail);
    assert_eq!(run.predict, PredictTable::default());
    assert_eq!(run.noise.holdout_fraction, 0.1);
    assert_eq!(run.prior.unwrap().precision, Prior::Fixed(0.0));
    assert_eq!(run.compute, Compute::default());
    assert_eq!(
        (run.compute.batch, run.compute.arithmetic.threads, run.compute.group),
        (512, 1, None)
    );
    assert!(run.train.is_none());
}

#[test]
fn structures_are_chosen_unless_one_is_given() {
    let run = |said: &str| parse(&with(LEAST, "structure = \"full\"", said)).unwrap();
    let curvature = |said: &str| run(said).curvature;
    let auto = |memory| StructureChoice::Auto { memory };
    assert_eq!(curvature("").structure, auto(8 << 30));
    assert_eq!(curvature("structure = \"auto\"").structure, auto(8 << 30));
    let tight = run("memory = \"2 MiB\"\n[curvature.layers]\n\"layers.0\" = \"kfac\"");
    assert_eq!((tight.curvature.structure, tight.compute.memory), (auto(2 << 20), None));
    assert_eq!(tight.curvature.by_layer["layers.0"], StructureKind::Kfac);
    let of_layer = run("memory = \"2 MiB\"\n[curvature.layers]\n\"layers.0\" = \"dual\"");
    assert_eq!(of_layer.compute.memory, Some(2 << 20), "it is the named block's, too");
    let dual = run("structure = \"dual\"\nmemory = 1000");
    assert_eq!(
        (dual.curvature.structure, dual.compute.memory),
        (StructureKind::Dual.into(), Some(1000))
    );
    let without = parse(&LEAST.replace("[curvature]\nstructure = \"full\"\n", "")).unwrap();
    assert_eq!(without.curvature.structure, auto(8 << 30));
    let error = parse(&with(LEAST, "structure = \"full\"", "structure = \"atuo\"")).unwrap_err();
    assert!(error.contains("the nearest is \"auto\""), "{error}");
}

#[test]
fn a_prior_is_a_number_or_what_finds_one() {
    let prior = |said: &str| parse(&with(LEAST, "precision = 0", &format!("precision = {said}")));
    assert_eq!(prior("\"evidence\"").unwrap().prior.unwrap().precision, Prior::Evidence);
    assert_eq!(prior("\"holdout\"").unwrap().prior.unwrap().precision, Prior::Holdout);
    let each = prior("\"evidence\"\nper_layer = true\nlabel_scale = true\n[prior.layers]\n\"layers.0\" = 100").unwrap();
    let each = each.prior.unwrap();
    assert_eq!((each.precision, each.label_scale), (Prior::EvidencePerBlock, true));
    assert_eq!(each.layers["layers.0"], 100.0);
    for said in ["\"evidnce\"", "true"] {
        let error = prior(said).unwrap_err();
        assert!(error.contains("`prior.precision` takes a number"), "{error}");
    }
}

#[test]
fn noise_may_be_of_photons_too_and_differ_from_cell_to_cell() {
    let noise = parse(&format!(
        "{LEAST}[noise]\nerrors_in_variables = true\n[noise.intrinsic_bins]\nteff = [4000, 5000.5]\nage = [1]\n"
    ))
    .unwrap()
    .noise;
    assert!(noise.errors_in_variables);
    let bins = [("teff", vec![4000.0, 5000.5]), ("age", vec![1.0])];
    assert_eq!(
        noise.intrinsic_bins,
        bins.map(|(label, edges)| (label.to_owned(), edges))
    );
}

#[test]
fn a_certificate_is_made_unless_it_is_switched_off() {
    let certificate = |said: &str| parse(&format!("{LEAST}[certificate]\n{said}\n"));
    let left_out = parse(LEAST).unwrap().certificate;
    assert_eq!(left_out, Certification::default());
    assert_eq!(
        (left_out.spectra, left_out.stars, left_out.full_pass),
        (None, 200, true)
    );
    let given = certificate(
        "spectra = 50\nstars = 9\ncompare = [\"kfac\", \"diagonal\"]\nfull_pass = false\nhessian_steps = 30",
    );
    let expected = Certification {
        spectra: Some(50),
        stars: 9,
        compare: vec![StructureKind::Kfac, StructureKind::Diagonal],
        full_pass: false,
        hessian_steps: 30,
    };
    assert_eq!(given.unwrap().certificate, expected);
    let off = certificate("spectra = 0\nfull_pass = false\ncompare = []\nhessian_steps = 0");
    assert!(!off.unwrap().certificate.is_wanted());
    assert_eq!(certificate("spectra = 0\nstars = 9").unwrap().certificate.stars, 9);
    for (wrong, said) in [
        ("stars = 0", "expected an integer of at least 1"),
        ("compare = [\"full\"]", "certificate.compare[0]"),
        ("compare = [\"kfac\", \"kfac\"]", "names \"kfac\" twice"),
        ("spectrum = 3", "spectra"),
    ] {
        let error = certificate(wrong).unwrap_err();
        assert!(error.contains(said), "{wrong}: {error}");
    }
}

#[test]
fn absent_tables_are_missed_only_by_the_commands_that_need_them() {
    let run = parse(&LEAST[..LEAST.find("[curvature]").unwrap()]).unwrap();
    for error in [
        run.prior().unwrap_err(),
        run.output().unwrap_err(),
        run.train().unwrap_err(),
    ] {
        assert!(
            error.to_string().contains("] is missing: add it with")
                || error.to_string().contains("]` is missing: add it with"),
            "{error}"
        );
    }
}

#[test]
fn the_reference_has_every_key_and_is_a_run_file() {
    let reference = include_str!("../../../RUN_FILE.md");
    let toml = reference.split("```toml\n").nth(1).unwrap();
    let toml = toml.split("```").next().unwrap();
    parse(toml).unwrap();
    for (table, keys) in TABLES {
        for key in *keys {
            assert!(reference.contains(key), "{table}.{key}");
        }
    }
}

#[test]
fn the_readme_has_a_run_file() {
    let readme = include_str!("../../../../../README.md");
    let toml = readme.split("```toml\n").nth(1).unwrap();
    let run = parse(toml.split("```").next().unwrap()).unwrap();
    assert_eq!(run.network.uri, "network.safetensors");
    assert!(run.prior().is_ok() && run.output().is_ok());
    // Messages send readers to this section.
    assert!(readme.contains("\n## From Keras or torch\n"));
}

#[test]
fn the_reference_states_the_defaults() {
    let reference = include_str!("../../../RUN_FILE.md");
    let stated = |key: &str| -> String {
        let line = reference
            .lines()
            .rfind(|l| l.starts_with(&format!("{key} = ")))
            .unwrap();
        assert!(line.contains("# default"), "{line}");
        line.split(['=', '#']).nth(1).unwrap().trim().to_owned()
    };
    let least = format!("{LEAST}[train]\nhidden = []\nepochs = 1\n");
    let run = parse(&least).unwrap();
    let train = run.train.unwrap();
    assert_eq!(stated("threads"), run.compute.arithmetic.threads.to_string());
    assert_eq!(run.compute.group, None);
    assert_eq!(stated("holdout_fraction"), run.noise.holdout_fraction.to_string());
    assert_eq!(stated("farthest_input"), format!("{:?}", run.noise.farthest_input));
    assert_eq!(stated("batch"), train.batch.to_string());
    assert_eq!(stated("learning_rate"), train.learning_rate.to_string());
    assert_eq!(stated("beta_1"), train.beta_1.to_string());
    assert_eq!(stated("beta_2"), train.beta_2.to_string());
    assert_eq!(stated("epsilon").parse::<f64>().unwrap(), train.epsilon);
    assert_eq!(stated("seed"), train.seed.to_string());
}

#[test]
fn every_pipeline_is_a_run_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let run = RunFile::read(&path).unwrap_or_else(|e| panic!("{e}"));
            assert!(run.prior.is_some() && run.output.is_some());
            read += 1;
        }
    }
    assert!(read > 0);
}
