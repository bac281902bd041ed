use std::collections::BTreeMap;

use fisherflow_curvature::{BlockOptions, plan_blocks};
use fisherflow_spectra::CatalogueColumns;

use super::*;
use crate::job::CatalogueSource;

/// 7,213 pixels to 2,048 units to 3 labels.
fn shapes() -> Vec<DenseShape> {
    let shape = |name: &str, inputs, outputs| DenseShape {
        name: name.to_owned(),
        inputs,
        outputs,
        bias: true,
        shared: 1,
    };
    vec![shape("layers.0", 7213, 2048), shape("layers.2", 2048, 3)]
}

/// With labels, and without the comparison.
fn job() -> Job {
    let mut columns = CatalogueColumns::new("id", "flux");
    columns.labels = ["teff", "logg", "fe_h"].map(str::to_owned).to_vec();
    let catalogue = CatalogueSource::new(String::new(), columns);
    let mut job = Job::new(String::new(), catalogue, Prior::Fixed(1.0), String::new());
    job.compute.arithmetic.precision = Precision::F32;
    job.certificate.spectra = 0;
    job
}

/// A million spectra.
fn sizes<'a>(job: &'a Job, shapes: &'a [DenseShape], processes: usize, workers: usize) -> Sizes<'a> {
    Sizes {
        job,
        shapes,
        n_pixels: 7213,
        pixel_bits: 64,
        n_labels: 3,
        n_rows: 1_000_000,
        row_groups: 1_000,
        processes,
        workers,
    }
}

fn memory(sizes: &Sizes<'_>, structure: StructureKind) -> MemoryPlan {
    let blocks = plan_blocks(sizes.shapes, structure, &BTreeMap::new(), BlockOptions::default()).unwrap();
    sizes.memory(&blocks).unwrap()
}

#[test]
fn gradients_that_wait_for_others_are_counted() {
    let (mut job, shapes) = (job(), shapes());
    let gradients = |job: &Job, processes, workers| {
        let memory = memory(&sizes(job, &shapes, processes, workers), StructureKind::Kfac);
        memory.certify - memory.predict
    };
    let (first, all) = (8 * 7214 * 2048, 8 * (7214 * 2048 + 2049 * 3));
    // One at work, the total, and what is added to it.
    assert_eq!(gradients(&job, 1, 1), 3 * all);
    // Of eight workers 16 groups may wait, of 64 in all 128: for the process that owns the first layer.
    assert_eq!(gradients(&job, 1, 8), (8 + 16) * all);
    assert_eq!(gradients(&job, 64, 1), 2 * all + 128 * first);
    let few = Sizes {
        row_groups: 3,
        ..sizes(&job, &shapes, 1, 8)
    };
    let memory = memory(&few, StructureKind::Kfac);
    assert_eq!(memory.certify - memory.predict, (3 + 3) * all);
    job.catalogue.columns.labels.clear();
    assert_eq!(gradients(&job, 1, 8), 0);
}

#[test]
fn products_that_wait_for_others_are_counted() {
    let (mut job, shapes) = (job(), shapes());
    job.curvature.low_rank.rank = 8;
    let fit = |processes, workers| memory(&sizes(&job, &shapes, processes, workers), StructureKind::LowRank).fit;
    // 16 vectors. Of 64 workers 128 groups may wait, all at the first.
    let vectors = 8 * 16 * (7214 * 2048 + 2049 * 3);
    assert_eq!(fit(64, 1), (1 + 2 + 128) * vectors + vectors / 2);
    assert!(fit(64, 1) > fit(1, 8) && fit(1, 8) > fit(1, 1));
}
