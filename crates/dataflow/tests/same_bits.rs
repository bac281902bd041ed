//! The same inputs give the same bits, for any number of workers and processes, in stages or at once.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fisherflow_curvature::{CurvatureKind, StructureKind};
use fisherflow_dataflow::{
    CatalogueSource, Certification, Cluster, Compute, Curvature, ExistingOutput, Job, NetworkSource, Noise, Outcome,
    Predict, Prior, Progress, RunSummary, Stage, run,
};
use fisherflow_network::{Activation, Arithmetic, Description, Labels, Network, Precision};
use fisherflow_spectra::Simulation;
use fisherflow_store::{MatrixSet, OnBadObject, Output, StoreOptions, Stores, simulated_columns, write_simulated};

struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

fn prepare(folder: &Path) {
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let simulation = Simulation::new(40, 7);
    write_simulated(
        &stores,
        folder.join("catalogue").to_str().unwrap(),
        &simulation,
        330,
        33,
    )
    .unwrap();
    let labels = Labels {
        names: Simulation::LABELS.map(str::to_owned).to_vec(),
        units: vec!["K".into(), "dex".into(), "dex".into()],
        mean: vec![4700.0, 2.3, -0.2],
        scale: vec![500.0, 0.8, 0.3],
    };
    let arithmetic = Arithmetic {
        precision: Precision::F32,
        threads: 1,
    };
    let network = Network::he_normal(&[40, 12, 8, 3], Activation::Tanh, labels, &[1.0], &[0.1], 1, arithmetic).unwrap();
    std::fs::write(folder.join("network.safetensors"), network.to_safetensors().unwrap()).unwrap();
}

fn job(folder: &Path, output: &str, predict_itself: bool) -> Job {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let source = CatalogueSource {
        uri: path("catalogue"),
        columns: simulated_columns(),
        on_bad_object: OnBadObject::Fail,
    };
    Job {
        network: NetworkSource {
            uri: path("network.safetensors"),
            said: Description::default(),
        },
        catalogue: source.clone(),
        predict: Predict {
            catalogue: (!predict_itself).then_some(source),
            jacobians: true,
        },
        curvature: Curvature {
            structure: StructureKind::Kfac,
            by_layer: BTreeMap::from([
                ("layers.2".to_string(), StructureKind::Full),
                ("layers.4".to_string(), StructureKind::Full),
            ]),
            kind: CurvatureKind::Ggn,
        },
        noise: Noise::Holdout,
        prior: Prior::Fixed(1.0),
        compute: Compute {
            arithmetic: Arithmetic {
                precision: Precision::F32,
                threads: 1,
            },
            batch: 16,
            group: 50,
            holdout_fraction: 0.2,
        },
        certificate: Certification::default(),
        output: path(output),
        existing_output: ExistingOutput::Refuse,
        store: StoreOptions::default(),
    }
}

fn alone(workers: usize) -> Cluster {
    Cluster {
        process: 0,
        addresses: vec!["localhost:0".into()],
        workers,
        secret: Vec::new(),
        deadline: Duration::from_secs(60),
    }
}

fn done(job: Job, stage: Stage, cluster: &Cluster) -> RunSummary {
    match run(Arc::new(job), stage, cluster, Arc::new(Quiet)) {
        Ok(Outcome::Done(summary)) => *summary,
        other => panic!("{stage:?}: {other:?}"),
    }
}

/// Path to SHA-256 of every data file.
fn digests(summary: &RunSummary) -> BTreeMap<String, String> {
    summary
        .files
        .iter()
        .map(|file| (file.path.clone(), file.sha256.clone()))
        .collect()
}

#[test]
fn workers_processes_and_stages_do_not_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let one = done(job(folder.path(), "one", false), Stage::Run, &alone(1));
    assert!(one.complete);
    assert_eq!(one.fit.spectra, 330);
    assert_eq!(one.fit.in_sums + one.fit.held_out, 330);
    assert_eq!(
        one.files.len(),
        2 * 5 + 3 * 2 + 2,
        "five groups, two blocks, the table of blocks and the certificate: {:#?}",
        one.files
    );
    same_bits_elsewhere(&one, |output| job(folder.path(), output, false));
}

#[test]
fn a_prior_by_evidence_is_the_same_everywhere_too() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let by_evidence = |output: &str| Job {
        prior: Prior::Evidence,
        ..job(folder.path(), output, false)
    };
    let one = done(by_evidence("one"), Stage::Run, &alone(1));
    let delta = one.prior.precision.unwrap();
    let facts = one.prior.evidence.unwrap();
    assert!((facts.effective_parameters / facts.weights_squared / delta - 1.0).abs() < 1e-10);
    assert!(!facts.at_edge && facts.curve_from < delta && delta < facts.curve_to);
    let gamma: f64 = one.blocks.iter().map(|block| block.effective_parameters).sum();
    assert!((gamma / facts.effective_parameters - 1.0).abs() < 1e-9);
    assert!(one.blocks.iter().all(|block| block.prior_precision == delta));
    let curve = one
        .files
        .iter()
        .find(|file| file.path == "posterior/evidence.parquet")
        .unwrap();
    assert_eq!(curve.rows, facts.curve_points as u64);
    for said in ["by evidence", "the pulls decide"] {
        assert!(one.notes.iter().any(|note| note.contains(said)), "{:?}", one.notes);
    }
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let output = Output::open(&stores, &one.output).unwrap();
    let verified = output.verify().unwrap();
    assert_eq!(verified.problems, Vec::<String>::new());
    let prior = &verified.manifest.settings["prior"];
    assert_eq!(
        (prior["from"].as_str(), prior["precision"].as_f64()),
        (Some("evidence"), Some(delta))
    );
    assert_eq!(prior["evidence"]["at_edge"], false);
    // What is written once it is known says it; the Hessian does not depend on it.
    for (path, expected) in [
        ("posterior/hessian/block-000.parquet", None),
        ("posterior/inverse/block-000.parquet", Some(delta)),
        ("posterior/evidence.parquet", Some(delta)),
        ("predictions/part-00000.parquet", Some(delta)),
    ] {
        let convention = convention(&stores, &output.child(path));
        assert_eq!(convention["prior_precision"].as_f64(), expected, "{path}");
        assert!(
            convention["prior_precision_from"]
                .as_str()
                .unwrap()
                .starts_with("by evidence")
        );
    }
    same_bits_elsewhere(&one, by_evidence);

    // The same number given in the run file makes the same posterior.
    let given = Job {
        prior: Prior::Fixed(delta),
        ..job(folder.path(), "given", false)
    };
    let given = done(given, Stage::Run, &alone(1));
    assert_eq!(given.blocks, one.blocks);
    assert!(given.prior.evidence.is_none() && given.notes.iter().all(|note| !note.contains("evidence")));
    let said = convention(
        &stores,
        &format!("{}/posterior/inverse/block-000.parquet", given.output),
    );
    assert_eq!(
        (said["prior_precision"].as_f64(), said.get("prior_precision_from")),
        (Some(delta), None)
    );
}

#[test]
fn the_evidence_is_that_of_the_written_hessian() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let mixed = job(folder.path(), "mixed", true);
    let mut exact = job(folder.path(), "exact", true);
    exact.curvature = Curvature {
        structure: StructureKind::Full,
        by_layer: BTreeMap::new(),
        kind: CurvatureKind::Ggn,
    };
    for mut job in [mixed, exact] {
        job.prior = Prior::Evidence;
        let arithmetic = job.compute.arithmetic;
        let summary = done(job, Stage::Run, &alone(2));
        let delta = summary.prior.precision.unwrap();
        let bytes = std::fs::read(folder.path().join("network.safetensors")).unwrap();
        let network = Network::from_safetensors(&bytes, &Description::default(), arithmetic).unwrap();
        let weights: Vec<f64> = (0..3)
            .flat_map(|layer| network.weights_and_biases(layer).unwrap())
            .collect();
        let squared: f64 = weights.iter().map(|w| w * w).sum();
        let output = Output::open(&stores, &summary.output).unwrap();
        let hessians: Vec<Vec<f64>> = (0..summary.blocks.len())
            .map(|block| dense_hessian(&output, block, summary.fit.in_sums as f64))
            .collect();
        assert_eq!(
            hessians.iter().map(|h| h.len().isqrt()).sum::<usize>(),
            weights.len(),
            "every weight, the biases too"
        );
        let log_evidence = |log_delta: f64| {
            let delta = log_delta.exp();
            let blocks = hessians.iter().map(|h| {
                let p = h.len().isqrt();
                0.5 * (p as f64 * log_delta - log_det_with(h.clone(), p, delta))
            });
            blocks.sum::<f64>() - 0.5 * delta * squared
        };
        let best = log_evidence(delta.ln());
        assert!((best / summary.prior.evidence.unwrap().log_evidence - 1.0).abs() < 1e-9);
        for away in [-8.0, -2.0, -0.5, 0.5, 2.0, 8.0] {
            assert!(log_evidence(delta.ln() + away) < best);
        }
        // The vertex of a parabola through three points.
        let h = 1e-3;
        let (left, right) = (log_evidence(delta.ln() - h), log_evidence(delta.ln() + h));
        let vertex = 0.5 * h * (left - right) / (left - 2.0 * best + right);
        assert!(vertex.abs() < 1e-6, "off by {vertex:e}");
    }
}

#[test]
fn a_network_of_zeros_has_no_evidence_and_ends_clearly() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let path = folder.path().join("network.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let described: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    for (name, tensor) in described.as_object().unwrap() {
        if name.ends_with(".weight") || name.ends_with(".bias") {
            let end = |i: usize| 8 + header + tensor["data_offsets"][i].as_u64().unwrap() as usize;
            bytes[end(0)..end(1)].fill(0);
        }
    }
    std::fs::write(&path, bytes).unwrap();
    let by_evidence = Job {
        prior: Prior::Evidence,
        ..job(folder.path(), "out", false)
    };
    let error = run(Arc::new(by_evidence), Stage::Run, &alone(2), Arc::new(Quiet)).unwrap_err();
    let said = format!("{error:?} {error}");
    assert!(said.contains("all weights of the network are 0"), "{said}");
}

/// What a file's metadata says of its numbers.
fn convention(stores: &Stores, uri: &str) -> serde_json::Value {
    let table = fisherflow_store::Table::open(stores, uri).unwrap();
    let metadata = table.metadata().0.get("fisherflow.convention").unwrap();
    serde_json::from_str(metadata).unwrap()
}

/// A block of `posterior/hessian/` as one matrix.
fn dense_hessian(output: &Output, block: usize, n_spectra: f64) -> Vec<f64> {
    let stored = output
        .read_matrices(MatrixSet::Hessian, &format!("block-{block:03}"))
        .unwrap();
    let find = |factor: &str| stored.matrices.iter().find(|matrix| matrix.factor == factor);
    if let Some(dense) = find("dense") {
        return dense.values.clone();
    }
    let (a, g) = (find("kron_a").unwrap(), find("kron_g").unwrap());
    let p = a.rows * g.rows;
    let value = |i: usize, j: usize| {
        g.values[(i / a.rows) * g.rows + j / a.rows] * a.values[(i % a.rows) * a.rows + j % a.rows] / n_spectra
    };
    (0..p * p).map(|at| value(at / p, at % p)).collect()
}

/// `ln det(H + delta I)` by elimination.
fn log_det_with(mut h: Vec<f64>, p: usize, delta: f64) -> f64 {
    let mut log_det = 0.0;
    for i in 0..p {
        h[i * p + i] += delta;
    }
    for i in 0..p {
        let (above, below) = h.split_at_mut((i + 1) * p);
        let pivot = &above[i * p + i..];
        log_det += pivot[0].ln();
        for row in below.chunks_exact_mut(p) {
            let factor = row[i] / pivot[0];
            for (x, y) in row[i..].iter_mut().zip(pivot) {
                *x -= factor * y;
            }
        }
    }
    log_det
}

/// The same bits on four workers, stage by stage, and on two processes.
fn same_bits_elsewhere(one: &RunSummary, job: impl Fn(&str) -> Job) {
    let expected = digests(one);
    let four = done(job("four"), Stage::Run, &alone(4));
    assert_eq!(digests(&four), expected);
    assert_eq!(four.prior, one.prior);

    for stage in [Stage::Fit, Stage::Invert] {
        done(job("stages"), stage, &alone(2));
    }
    let stages = done(job("stages"), Stage::Predict, &alone(3));
    assert_eq!(digests(&stages), expected);
    assert_eq!(stages.prior, one.prior);

    let held: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = held.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
    drop(held);
    let cluster = |process| Cluster {
        process,
        addresses: addresses.clone(),
        workers: 2,
        ..alone(2)
    };
    let (first, second) = (cluster(0), cluster(1));
    let (here, there) = (job("cluster"), job("cluster"));
    let other = std::thread::spawn(move || done(there, Stage::Run, &second));
    let first = done(here, Stage::Run, &first);
    assert_eq!(digests(&first), expected);
    assert!(!other.join().unwrap().complete, "one process commits");
}

#[test]
fn one_pass_for_fit_and_prediction_gives_what_two_give() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let apart = done(job(folder.path(), "apart", false), Stage::Run, &alone(2));
    let fused = done(job(folder.path(), "fused", true), Stage::Run, &alone(2));
    assert_eq!(apart.blocks, fused.blocks);
    assert_eq!(apart.predict, fused.predict);
    let covariances = |output: &str| {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let uri = folder.path().join(output).join("predictions");
        let table = fisherflow_store::Table::open(&stores, uri.to_str().unwrap()).unwrap();
        let batches: Vec<_> = table
            .batches(Some(&["cov", "cov_flux"]), 1000)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        format!("{batches:?}")
    };
    assert_eq!(covariances("apart"), covariances("fused"));
    // Only rows that the sums have not seen count towards the pulls.
    let unseen = fused.pulls.unwrap()[0].n_spectra;
    assert_eq!(unseen, fused.fit.held_out);
}

#[test]
fn a_complete_output_is_left_alone_and_another_run_refused() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    done(job(folder.path(), "out", false), Stage::Run, &alone(1));
    let again = run(
        Arc::new(job(folder.path(), "out", false)),
        Stage::Run,
        &alone(1),
        Arc::new(Quiet),
    );
    assert!(matches!(again, Ok(Outcome::AlreadyComplete(_))), "{again:?}");
    let mut other = job(folder.path(), "out", false);
    other.prior = Prior::Fixed(2.0);
    let refused = run(Arc::new(other.clone()), Stage::Run, &alone(1), Arc::new(Quiet)).unwrap_err();
    assert_eq!(refused.exit_code(), 1);
    assert!(
        refused.to_string().contains("already holds the finished run"),
        "{refused}"
    );
    other.existing_output = ExistingOutput::Overwrite;
    assert!(done(other, Stage::Run, &alone(1)).complete);
}
