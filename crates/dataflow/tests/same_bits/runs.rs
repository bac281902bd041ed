//! What a run refuses, what it plans and chooses, and what it goes on with.

use super::*;

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
    // 32 eigenpairs of the first two layers are sought among 40 vectors.
    let (none, some) = (twice.checkpoints, plan(StructureKind::LowRank).checkpoints);
    assert_eq!((none.eigenpairs, some.eigenpairs), (0, 8 * 40 * (41 * 12 + 13 * 8)));
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
    let structures: Vec<&str> = tight(400_000).chosen.iter().map(|layer| layer.structure).collect();
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
