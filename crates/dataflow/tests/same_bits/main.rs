//! The same inputs give the same bits, for any number of workers and processes, in stages or at once.

mod exact;
mod runs;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use fisherflow_curvature::StructureKind;
use fisherflow_dataflow::{
    CatalogueSource, Cluster, ClusterQuestion, Curvature, Hosts, Job, Meter, Outcome, PassCount, Predict, Prior,
    Progress, RunSummary, Stage, Standing, StructureChoice, run,
};
use fisherflow_network::{Activation, Arithmetic, Description, Labels, Network, Precision};
use fisherflow_spectra::Simulation;
use fisherflow_store::{MatrixSet, Output, StoreOptions, Stores, simulated_columns, write_simulated};

fn prepare(folder: &Path) {
    prepare_network(folder, &[40, 12, 8, 3]);
}

/// Simulated spectra for a network of these widths, and the network.
fn prepare_network(folder: &Path, widths: &[usize]) {
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let simulation = Simulation::new(widths[0], 7);
    write_simulated(
        &stores,
        folder.join("catalogue").to_str().unwrap(),
        &simulation,
        330,
        66,
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
    let network = Network::he_normal(widths, Activation::Tanh, labels, &[1.0], &[0.1], 1, arithmetic).unwrap();
    std::fs::write(folder.join("network.safetensors"), network.to_safetensors().unwrap()).unwrap();
}

fn job(folder: &Path, output: &str, predict_itself: bool) -> Job {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let catalogue = CatalogueSource::new(path("catalogue"), simulated_columns());
    let mut job = Job::new(path("network.safetensors"), catalogue, Prior::Fixed(1.0), path(output));
    job.predict = Predict {
        catalogue: (!predict_itself).then(|| job.catalogue.clone()),
        jacobians: true,
    };
    job.curvature.structure = StructureKind::Kfac.into();
    job.curvature.by_layer = BTreeMap::from([
        ("layers.2".to_string(), StructureKind::Full),
        ("layers.4".to_string(), StructureKind::Full),
    ]);
    job.compute.arithmetic.precision = Precision::F32;
    job.compute.batch = 16;
    job.compute.group = Some(50);
    job.compute.holdout_fraction = 0.2;
    job
}

fn alone(workers: usize) -> Cluster {
    Cluster::alone(workers)
}

fn done(job: Job, stage: Stage, cluster: &Cluster) -> RunSummary {
    match run(Arc::new(job), stage, cluster, Meter::silent()) {
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

/// None, some of the row groups, and all: a batch that is kept is the one that would be read, and what is kept is not read again.
#[test]
fn spectra_kept_between_passes_do_not_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let ran = |output: &str, kept_spectra: u64| {
        let mut job = corrected(folder.path(), output, true);
        job.compute.kept_spectra = kept_spectra;
        let meter = Meter::silent();
        match run(Arc::new(job), Stage::Run, &alone(2), Arc::clone(&meter)) {
            Ok(Outcome::Done(summary)) => (digests(&summary), meter.traffic().bytes_read),
            other => panic!("{other:?}"),
        }
    };
    let ((none, read), (some, read_with_some), (all, read_with_all)) =
        (ran("none", 0), ran("some", 100_000), ran("all", 1 << 30));
    assert_eq!(none, some);
    assert_eq!(none, all);
    assert!(
        read > read_with_some && read_with_some > read_with_all,
        "{read}, {read_with_some}, {read_with_all} bytes"
    );
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
    assert!(one.complete);
    assert_eq!(one.fit.spectra, 330);
    assert_eq!(one.fit.in_sums + one.fit.held_out, 330);
    assert_eq!(
        one.files.len(),
        2 * 5 + 3 * 2 + 3,
        "five groups, two blocks, the table of blocks, the evidence and the certificate: {:#?}",
        one.files
    );
    let delta = one.prior.precision.as_ref().unwrap().one().unwrap();
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
    // Those over [predict] are over the fit's own stars.
    for said in ["by evidence", "the pulls over held-out spectra decide"] {
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
fn a_dual_block_is_the_same_everywhere_in_memory_and_out_of_it() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    // Groups of 99 rows, of which 80 % are three labels each: five chunks; a layer beside them that is held otherwise.
    let dual = |output: &str| {
        let mut job = job(folder.path(), output, true);
        job.curvature.structure = StructureKind::Dual.into();
        job.curvature.by_layer = BTreeMap::from([("layers.2".to_string(), StructureKind::Kfac)]);
        job
    };
    let one = done(dual("one"), Stage::Run, &alone(1));
    assert!(one.complete);
    assert_eq!(
        one.blocks
            .iter()
            .map(|block| block.layers.join("+"))
            .collect::<Vec<_>>(),
        ["layers.0+layers.4", "layers.2"]
    );
    same_bits_elsewhere(&one, dual);
    for (output, memory) in [("no-memory", 1), ("little-memory", 1_500_000)] {
        same_bits_elsewhere(&one, |place| {
            let mut job = dual(&format!("{output}-{place}"));
            job.compute.memory = Some(memory);
            job.compute.scratch = (memory == 1).then(|| folder.path().join("scratch").to_str().unwrap().into());
            job
        });
    }
    let left = std::fs::read_dir(folder.path().join("scratch")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "the tiles of a complete run are of no use");
    let by_evidence = |output: &str| Job {
        prior: Prior::Evidence,
        ..dual(output)
    };
    let evidence = done(by_evidence("evidence"), Stage::Run, &alone(1));
    let facts = evidence.prior.evidence.unwrap();
    let gamma: f64 = evidence.blocks.iter().map(|block| block.effective_parameters).sum();
    assert!((gamma / facts.effective_parameters - 1.0).abs() < 1e-9);
    same_bits_elsewhere(&evidence, |place| by_evidence(&format!("evidence-{place}")));
}

/// What a file's metadata says of its numbers.
fn convention(stores: &Stores, uri: &str) -> serde_json::Value {
    let table = fisherflow_store::Table::open(stores, uri).unwrap();
    let metadata = table.metadata().0.get("fisherflow.convention").unwrap();
    serde_json::from_str(metadata).unwrap()
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
        processes: 2,
        hosts: Hosts::Listed(addresses.clone()),
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

/// The first two layers in corrected eigenbases, the last as its exact block.
fn corrected(folder: &Path, output: &str, predict_itself: bool) -> Job {
    let mut job = job(folder, output, predict_itself);
    job.curvature.structure = StructureKind::Ekfac.into();
    job.curvature.by_layer = BTreeMap::from([("layers.4".to_string(), StructureKind::Block)]);
    job
}

#[test]
fn a_second_pass_over_the_spectra_is_the_same_everywhere_too() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let by_evidence = |output: &str, predict_itself| Job {
        prior: Prior::Evidence,
        ..corrected(folder.path(), output, predict_itself)
    };
    let one = done(by_evidence("one", false), Stage::Run, &alone(1));
    assert_eq!(
        one.blocks.iter().map(|block| block.structure).collect::<Vec<_>>(),
        [StructureKind::Ekfac, StructureKind::Ekfac, StructureKind::Block]
    );
    same_bits_elsewhere(&one, |output| by_evidence(output, false));
    let fused = done(by_evidence("fused", true), Stage::Run, &alone(2));
    assert_eq!(fused.blocks, one.blocks);
}

/// Enough inputs that whole numbers pay, and so little prior that they are not exact enough for some stars.
#[test]
fn a_rotation_of_whole_numbers_is_the_same_everywhere_too() {
    let folder = tempfile::tempdir().unwrap();
    prepare_network(folder.path(), &[600, 12, 8, 3]);
    for structure in [StructureKind::Kfac, StructureKind::Ekfac] {
        let of = |output: &str, precision| {
            let mut job = job(folder.path(), &format!("{structure}-{precision}-{output}"), false);
            job.curvature.structure = structure.into();
            job.compute.arithmetic.precision = precision;
            job.prior = Prior::Fixed(1e-7);
            job
        };
        let [one, in_f32] = [Precision::Auto, Precision::F32].map(|p| done(of("one", p), Stage::Run, &alone(1)));
        let again = one.predict.unwrap().weights_in_f32;
        println!("{structure}: {again} in f32");
        assert!(again > 0 && again < 330, "{structure}: {again}");
        let predictions = |summary: &RunSummary| {
            let mut digests = digests(summary);
            digests.retain(|file, _| file.starts_with("predictions/"));
            digests
        };
        assert_ne!(predictions(&one), predictions(&in_f32));
        same_bits_elsewhere(&one, |output| of(output, Precision::Auto));
    }
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
