//! The same inputs give the same bits, for any number of workers and processes, in stages or at once.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use fisherflow_curvature::{BlockOptions, CurvatureKind, StructureKind};
use fisherflow_dataflow::{
    Calibration, CatalogueSource, Certification, Cluster, ClusterQuestion, Compute, Curvature, ExistingOutput, Hosts,
    Job, LowRankSettings, Meter, NetworkSource, Noise, Outcome, PassCount, Predict, Prior, Progress, RunSummary, Stage,
    Standing, StructureChoice, run,
};
use fisherflow_network::{Activation, Arithmetic, Description, Labels, Network, Precision, Processor};
use fisherflow_spectra::Simulation;
use fisherflow_store::{MatrixSet, OnBadObject, Output, StoreOptions, Stores, simulated_columns, write_simulated};

fn prepare(folder: &Path) {
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let simulation = Simulation::new(40, 7);
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
    let network = Network::he_normal(&[40, 12, 8, 3], Activation::Tanh, labels, &[1.0], &[0.1], 1, arithmetic).unwrap();
    std::fs::write(folder.join("network.safetensors"), network.to_safetensors().unwrap()).unwrap();
}

fn job(folder: &Path, output: &str, predict_itself: bool) -> Job {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let source = CatalogueSource {
        uri: path("catalogue"),
        columns: simulated_columns(),
        on_bad_object: OnBadObject::Fail,
        exclude: Vec::new(),
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
            structure: StructureKind::Kfac.into(),
            by_layer: BTreeMap::from([
                ("layers.2".to_string(), StructureKind::Full),
                ("layers.4".to_string(), StructureKind::Full),
            ]),
            options: BlockOptions::default(),
            kind: CurvatureKind::Ggn,
            low_rank: LowRankSettings::default(),
        },
        noise: Noise::Holdout,
        prior: Prior::Fixed(1.0),
        prior_by_layer: BTreeMap::new(),
        calibration: Calibration::default(),
        compute: Compute {
            arithmetic: Arithmetic {
                precision: Precision::F32,
                threads: 1,
            },
            batch: 16,
            group: Some(50),
            holdout_fraction: 0.2,
            memory: None,
            kept_spectra: Compute::KEPT_SPECTRA,
            processor: Processor::Cpu,
            scratch: None,
        },
        certificate: Certification::default(),
        output: path(output),
        basis: None,
        releases: false,
        existing_output: ExistingOutput::Refuse,
        store: StoreOptions::default(),
    }
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

#[test]
fn a_dual_block_of_all_layers_says_what_a_full_one_says() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let of = |structure: StructureKind, prior| {
        let mut job = job(folder.path(), &format!("{structure}-{prior:?}"), false);
        job.curvature.structure = structure.into();
        job.curvature.by_layer.clear();
        job.compute.arithmetic.precision = Precision::F64;
        job.prior = prior;
        done(job, Stage::Run, &alone(2))
    };
    for prior in [Prior::Fixed(0.3), Prior::Fixed(300.0), Prior::Evidence] {
        let (full, dual) = (of(StructureKind::Full, prior), of(StructureKind::Dual, prior));
        let close = |found: f64, expected: f64| {
            let error = (found / expected - 1.0).abs();
            assert!(error < 1e-8, "{prior:?}: {found} {expected} {error:e}");
        };
        let (expected, found) = (&full.blocks[0], &dual.blocks[0]);
        close(found.prior_precision, expected.prior_precision);
        close(found.log_det, expected.log_det);
        close(found.effective_parameters, expected.effective_parameters);
        for table in ["predictions", "posterior/marginal_variance"] {
            let column = if table == "predictions" {
                "cov_weights"
            } else {
                "std_error"
            };
            let values = |summary: &RunSummary| column_of(&format!("{}/{table}", summary.output), column);
            let (found, expected) = (values(&dual), values(&full));
            assert_eq!(found.len(), expected.len());
            assert!(!found.is_empty());
            let each = if table == "predictions" { 9 } else { 1 };
            for (found, expected) in found.chunks_exact(each).zip(expected.chunks_exact(each)) {
                let scale = expected.iter().fold(0.0_f64, |scale, v| scale.max(v.abs()));
                let worst = found
                    .iter()
                    .zip(expected)
                    .fold(0.0_f64, |worst, (f, e)| worst.max((f - e).abs()));
                assert!(worst <= 1e-8 * scale, "{prior:?} {table}: {worst:e} of {scale:e}");
            }
        }
    }
}

/// All values of a column of doubles, or of lists of them, over the files of a folder.
fn column_of(folder: &str, column: &str) -> Vec<f64> {
    use arrow_array::cast::AsArray;
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let table = fisherflow_store::Table::open(&stores, folder).unwrap();
    let mut values = Vec::new();
    for batch in table.batches(Some(&[column]), 4096).unwrap() {
        let batch = batch.unwrap();
        let found = batch.column(0);
        let doubles = match found.as_list_opt::<i32>() {
            Some(lists) => lists.values(),
            None => found,
        };
        values.extend_from_slice(doubles.as_primitive::<arrow_array::types::Float64Type>().values());
    }
    values
}

#[test]
fn the_evidence_is_that_of_the_written_hessian() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let mixed = job(folder.path(), "mixed", true);
    let mut exact = job(folder.path(), "exact", true);
    exact.curvature = Curvature {
        structure: StructureKind::Full.into(),
        by_layer: BTreeMap::new(),
        ..exact.curvature
    };
    for mut job in [mixed, exact] {
        job.prior = Prior::Evidence;
        let arithmetic = job.compute.arithmetic;
        let summary = done(job, Stage::Run, &alone(2));
        let delta = summary.prior.precision.as_ref().unwrap().one().unwrap();
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
    let error = run(Arc::new(by_evidence), Stage::Run, &alone(2), Meter::silent()).unwrap_err();
    let said = format!("{error:?} {error}");
    assert!(said.contains("all weights are 0"), "{said}");
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
    let one = done(corrected(folder.path(), "one", false), Stage::Run, &alone(1));
    assert_eq!(
        one.blocks.iter().map(|block| block.structure).collect::<Vec<_>>(),
        [StructureKind::Ekfac, StructureKind::Ekfac, StructureKind::Block]
    );
    same_bits_elsewhere(&one, |output| corrected(folder.path(), output, false));
    let fused = done(corrected(folder.path(), "fused", true), Stage::Run, &alone(2));
    assert_eq!(fused.blocks, one.blocks);
    let by_evidence = |output: &str| Job {
        prior: Prior::Evidence,
        ..corrected(folder.path(), output, false)
    };
    let evidence = done(by_evidence("evidence"), Stage::Run, &alone(3));
    same_bits_elsewhere(&evidence, |output| by_evidence(&format!("evidence-{output}")));
}

#[test]
fn corrected_eigenvalues_are_the_diagonal_of_the_exact_block_in_their_bases() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let of = |output: &str, structure: StructureKind, split_bias, precision| {
        let mut job = corrected(folder.path(), output, true);
        job.curvature.structure = structure.into();
        job.curvature.options.split_bias = split_bias;
        job.compute.arithmetic.precision = precision;
        done(job, Stage::Fit, &alone(2));
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let output = Output::open(&stores, folder.path().join(output).to_str().unwrap()).unwrap();
        [0, 1].map(|block| {
            output
                .read_matrices(MatrixSet::Hessian, &format!("block-{block:03}"))
                .unwrap()
                .matrices
        })
    };
    for (split_bias, precision, tolerance) in [
        (false, Precision::F64, 1e-11),
        (true, Precision::F64, 1e-11),
        (false, Precision::F32, 1e-5),
    ] {
        let name = format!("{split_bias}-{precision:?}");
        let exact = of(&format!("block-{name}"), StructureKind::Block, split_bias, precision);
        let corrected = of(&format!("ekfac-{name}"), StructureKind::Ekfac, split_bias, precision);
        for (exact, corrected) in exact.iter().zip(&corrected) {
            let find = |factor: &str| corrected.iter().find(|matrix| matrix.factor == factor).unwrap();
            let (u, v) = (find("g_eigenvectors"), find("a_eigenvectors"));
            let (h, p) = (&exact[0].values, exact[0].rows);
            let largest = find("eigenvalues").values.iter().fold(0.0_f64, |m, x| m.max(*x));
            for (at, lambda) in find("eigenvalues").values.iter().enumerate() {
                let (i, j) = (at / v.cols, at % v.cols);
                let q: Vec<f64> = (0..p)
                    .map(|w| u.values[w / v.rows * u.cols + i] * v.values[w % v.rows * v.cols + j])
                    .collect();
                let expected: f64 = h
                    .chunks_exact(p)
                    .zip(&q)
                    .map(|(row, left)| left * row.iter().zip(&q).map(|(h, q)| h * q).sum::<f64>())
                    .sum();
                assert!(
                    (lambda - expected).abs() < tolerance * largest,
                    "{name}: {lambda} {expected}"
                );
            }
        }
    }
}

/// The passes that began.
#[derive(Default)]
struct Passes(std::sync::Mutex<Vec<String>>);

impl Progress for Passes {
    fn begin(&self, pass: &str, _: u64) {
        self.0.lock().unwrap().push(pass.to_owned());
    }
    fn show(&self, _: &Standing) {}
    fn end(&self, _: &PassCount) {}
}

#[test]
fn a_fit_interrupted_between_its_passes_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let expected = digests(&done(corrected(folder.path(), "whole", true), Stage::Run, &alone(2)));
    done(corrected(folder.path(), "out", true), Stage::Fit, &alone(2));
    // As if the second pass had not ended.
    std::fs::remove_file(folder.path().join("out/stages/fit.json")).unwrap();
    std::fs::remove_file(folder.path().join("out/posterior/hessian/block-000.parquet")).unwrap();
    let passes = Arc::new(Passes::default());
    let again = corrected(folder.path(), "out", true);
    let telling = Arc::clone(&passes);
    match run(Arc::new(again), Stage::Run, &alone(3), Meter::new(telling)) {
        Ok(Outcome::Done(summary)) => assert_eq!(digests(&summary), expected),
        other => panic!("{other:?}"),
    }
    let passes = passes.0.lock().unwrap();
    assert!(passes.iter().any(|pass| pass == "correction"), "{passes:?}");
    assert!(passes.iter().all(|pass| pass != "curvature"), "{passes:?}");
}

#[test]
fn a_full_block_whose_bias_is_to_be_split_off_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let mut split = job(folder.path(), "out", true);
    split.curvature.options.split_bias = true;
    let error = run(Arc::new(split), Stage::Run, &alone(1), Meter::silent()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let said = error.to_string();
    assert!(said.starts_with("curvature.split_bias: layer layers.2"), "{said}");
}

#[test]
fn a_plan_counts_both_passes() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let plan = |structure: StructureKind| {
        let mut job = corrected(folder.path(), "planned", true);
        job.curvature.structure = structure.into();
        fisherflow_dataflow::plan(Arc::new(job), &ClusterQuestion::of(1, 2)).unwrap()
    };
    let (once, twice) = (plan(StructureKind::Kfac), plan(StructureKind::Ekfac));
    assert!(once.blocks.iter().all(|block| block.correction.is_none()));
    // 40 - 12 - 8 - 3, 3 labels, 330 spectra.
    let facts = twice.blocks[0].correction.unwrap();
    assert_eq!(facts.bases_bytes, 8 * (41 * 41 + 12 * 12));
    assert_eq!(facts.sums_bytes, 8 * 41 * 12);
    assert_eq!(
        facts.sums_flops,
        2.0 * 330.0 * f64::from(40 * 41 + 3 * 12 * 12 + 12 * 41)
    );
    assert_eq!(facts.bases_flops, 9.0 * f64::from(41 * 41 * 41 + 12 * 12 * 12));
    assert!(twice.blocks[2].correction.is_none());
    let corrections: f64 = twice
        .blocks
        .iter()
        .filter_map(|block| block.correction)
        .map(|of| of.bases_flops + of.sums_flops)
        .sum();
    let pass = 330.0 * 2.0 * f64::from(40 * 12 + 12 * 8 + 8 * 3 + 3 * (12 * 8 + 8 * 3));
    assert!((twice.flops.fit - once.flops.fit - corrections - pass).abs() < 1e-6 * pass);
    assert!(twice.flops.invert < once.flops.invert);
    assert!(twice.memory.fit > once.memory.fit);
}

/// 40 - 12 - 8 - 3 has 623 weights, and about 0.8 x 330 spectra have 3 labels each: all layers in one dense block; in less memory, by layer.
#[test]
fn what_auto_chooses_is_the_run_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let auto = |output: &str, memory| {
        let mut job = job(folder.path(), output, true);
        job.curvature.by_layer.clear();
        job.curvature.structure = StructureChoice::Auto { memory };
        job
    };
    let mut named = auto("named", 0);
    named.curvature.structure = StructureKind::Full.into();
    let (chosen, named) = (
        done(auto("chosen", 8 << 30), Stage::Run, &alone(2)),
        done(named, Stage::Run, &alone(1)),
    );
    assert_eq!(chosen.run_id, named.run_id);
    assert_eq!(digests(&chosen), digests(&named));
    let manifest = std::fs::read(folder.path().join("chosen/manifest.json")).unwrap();
    let settings = serde_json::from_slice::<serde_json::Value>(&manifest).unwrap()["settings"].clone();
    assert_eq!(settings["curvature"]["structure"], "auto");
    assert_eq!(settings["curvature"]["chosen"][2]["structure"], "full");
    // What a run took stands beside what was predicted.
    let resources = &settings["resources"];
    let stages = resources["stages"].as_array().unwrap();
    assert_eq!(
        stages
            .iter()
            .map(|stage| stage["stage"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["fit", "invert", "certificate", "predict"]
    );
    assert!(stages.iter().all(|stage| stage["seconds"].as_f64().unwrap() > 0.0));
    let planned = fisherflow_dataflow::plan(Arc::new(auto("planned", 8 << 30)), &ClusterQuestion::of(1, 2)).unwrap();
    assert_eq!(resources["memory_predicted"].as_u64().unwrap(), planned.memory.peak());
    assert_eq!(stages[0]["flops_predicted"].as_f64().unwrap(), planned.flops.fit);
    assert_eq!(resources["memory_peak"].is_u64(), cfg!(target_os = "linux"));

    // No more than diagonals take, and a little: the last layer, of 27 weights, is still exact.
    let mut diagonal = auto("diagonal", 0);
    diagonal.curvature.structure = StructureKind::Diagonal.into();
    let least = fisherflow_dataflow::plan(Arc::new(diagonal), &ClusterQuestion::of(1, 1))
        .unwrap()
        .memory
        .widest();
    let tight =
        |more| fisherflow_dataflow::plan(Arc::new(auto("tight", least + more)), &ClusterQuestion::of(1, 1)).unwrap();
    let structures: Vec<&str> = tight(30_000).chosen.iter().map(|layer| layer.structure).collect();
    assert_eq!(structures[2], "block", "{structures:?}");
    assert_ne!(structures[0], "block", "{structures:?}");
    assert!(tight(0).chosen.iter().all(|layer| layer.structure == "diagonal"));
    let mut nothing = auto("nothing", least - 1);
    nothing.compute.batch = 16;
    let error = fisherflow_dataflow::plan(Arc::new(nothing), &ClusterQuestion::of(1, 1))
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("({least} bytes)")), "{error}");
}

#[test]
fn a_dual_block_finds_the_prior_of_held_out_spectra_that_the_full_one_finds() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let found = |output: &str, structure: StructureKind, workers| {
        let mut job = job(folder.path(), output, false);
        job.curvature.by_layer.clear();
        job.curvature.structure = structure.into();
        job.compute.arithmetic.precision = Precision::F64;
        job.prior = Prior::Holdout;
        done(job, Stage::Run, &alone(workers))
    };
    let (dual, again) = (
        found("dual", StructureKind::Dual, 1),
        found("again", StructureKind::Dual, 3),
    );
    assert_eq!(digests(&dual), digests(&again));
    let full = found("full", StructureKind::Full, 1);
    let precision = |summary: &RunSummary| summary.prior.precision.as_ref().unwrap().one().unwrap();
    let (found, expected) = (precision(&dual), precision(&full));
    assert!((found / expected - 1.0).abs() < 1e-6, "{found:e} {expected:e}");
    let gamma = |summary: &RunSummary| summary.effective_parameters.as_ref().unwrap().all;
    assert!((gamma(&dual) / gamma(&full) - 1.0).abs() < 1e-5);
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
        Meter::silent(),
    );
    assert!(matches!(again, Ok(Outcome::AlreadyComplete(_))), "{again:?}");
    let mut other = job(folder.path(), "out", false);
    other.prior = Prior::Fixed(2.0);
    let refused = run(Arc::new(other.clone()), Stage::Run, &alone(1), Meter::silent()).unwrap_err();
    assert_eq!(refused.exit_code(), 1);
    assert!(
        refused.to_string().contains("already holds the finished run"),
        "{refused}"
    );
    other.existing_output = ExistingOutput::Overwrite;
    assert!(done(other, Stage::Run, &alone(1)).complete);
}
