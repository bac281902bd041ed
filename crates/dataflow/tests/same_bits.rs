//! The same inputs give the same bits, for any number of workers and processes, in stages or at once.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fisherflow_curvature::StructureKind;
use fisherflow_dataflow::{
    CatalogueSource, Cluster, Compute, Curvature, ExistingOutput, Job, NetworkSource, Noise, Outcome, Predict, Prior,
    Progress, RunSummary, Stage, run,
};
use fisherflow_network::{Activation, Arithmetic, Description, Labels, Network, Precision};
use fisherflow_spectra::Simulation;
use fisherflow_store::{OnBadObject, StoreOptions, Stores, simulated_columns, write_simulated};

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
        2 * 5 + 3 * 2 + 1,
        "five groups, two blocks, and the table of blocks: {:#?}",
        one.files
    );
    let expected = digests(&one);

    let four = done(job(folder.path(), "four", false), Stage::Run, &alone(4));
    assert_eq!(digests(&four), expected);

    for stage in [Stage::Fit, Stage::Invert] {
        done(job(folder.path(), "stages", false), stage, &alone(2));
    }
    let stages = done(job(folder.path(), "stages", false), Stage::Predict, &alone(3));
    assert_eq!(digests(&stages), expected);

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
    let (here, there) = (
        job(folder.path(), "cluster", false),
        job(folder.path(), "cluster", false),
    );
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
