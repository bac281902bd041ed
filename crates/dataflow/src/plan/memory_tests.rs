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
    job.certificate.spectra = Some(0);
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
        row_groups: RowGroups {
            n: 1_000,
            rows: 1_000,
            bytes: 58_000_000,
        },
        predicted: None,
        processes,
        workers,
    }
}

fn memory(sizes: &Sizes<'_>, structure: StructureKind) -> MemoryPlan {
    let blocks = plan_blocks(sizes.shapes, structure, &BTreeMap::new(), BlockOptions::default()).unwrap();
    sizes.memory(&blocks).unwrap()
}

#[test]
fn gradients_of_two_groups_a_worker_are_counted() {
    let (mut job, shapes) = (job(), shapes());
    let gradients = |job: &Job, processes, workers| {
        let sizes = sizes(job, &shapes, processes, workers);
        let memory = memory(&sizes, StructureKind::Kfac);
        memory.certify - (memory.predict - sizes.calibrating())
    };
    let all = 8 * (7214 * 2048 + 2049 * 3);
    let from_the_store = 8 * (SLICES_IN_HAND * SLICE) as u64;
    // Wherever they are added up: they wait in the store. Few workers have most in memory when they read them back, many while they sum.
    for (processes, workers, expected) in [
        (1, 1, 2 * all + from_the_store),
        (1, 8, 9 * all + 8 * from_the_store),
        (1, 32, 32 * (2 * all + TO_THE_STORE)),
        (64, 1, 2 * all + from_the_store),
    ] {
        assert_eq!(
            gradients(&job, processes, workers),
            expected,
            "{processes} of {workers}"
        );
    }
    job.certificate.full_pass = false;
    assert_eq!(gradients(&job, 1, 8), 0);
    // Of sums that are less than a slice, those of as many groups as are in hand.
    assert_eq!(
        sizes(&job, &shapes, 1, 2).summing(1000, 0),
        3 * 1000 + 2 * SLICES_IN_HAND as u64 * 1000
    );
    job.certificate.full_pass = true;
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

/// What a group leaves is the diagonal; a worker has the eigenpairs beside, and who writes them once more.
#[test]
fn eigenpairs_are_no_sums_of_a_group() {
    let (mut job, shapes) = (job(), shapes());
    let weights = 2049 * 3;
    let by_layer = BTreeMap::from([("layers.2".to_owned(), StructureKind::LowRank)]);
    let blocks = plan_blocks(&shapes, StructureKind::Kfac, &by_layer, BlockOptions::default()).unwrap();
    let mut fit = |rank| {
        job.curvature.low_rank.rank = rank;
        let sizes = sizes(&job, &shapes, 1, 8);
        let sums = blocks.iter().map(|block| sizes.sums_bytes(block).unwrap()).sum::<u64>();
        assert_eq!(sums, Checkpoint::of(&shapes, 3, &blocks).unwrap().curvature);
        sizes.memory(&blocks).unwrap().fit
    };
    assert_eq!(fit(32) - fit(16), (8 + 1) * 8 * 16 * weights);
}

#[test]
fn a_gram_matrix_is_counted_where_its_eigenvalues_are_needed() {
    let (given, shapes) = (job(), shapes());
    let invert = |prior, by_layer: &BTreeMap<String, f64>| {
        let job = Job {
            prior,
            prior_by_layer: by_layer.clone(),
            ..given.clone()
        };
        memory(&sizes(&job, &shapes, 1, 1), StructureKind::Dual).invert
    };
    let by_layer: BTreeMap<String, f64> = shapes.iter().map(|shape| (shape.name.clone(), 1.0)).collect();
    let (none, fixed) = (BTreeMap::new(), invert(Prior::Fixed(1.0), &BTreeMap::new()));
    assert_eq!(invert(Prior::Evidence, &by_layer), fixed);
    assert!(invert(Prior::Evidence, &none) > fixed);
    assert!(invert(Prior::Holdout, &by_layer) > fixed);
}

/// The sums of these layers held as `kfac` make groups of 14,700 spectra or more.
#[test]
fn row_groups_are_counted_as_they_are_read() {
    let (mut job, shapes) = (job(), shapes());
    let memory = |job: &Job, row_groups: RowGroups, predicted: Option<RowGroups>| {
        let sizes = Sizes {
            row_groups,
            predicted,
            ..sizes(job, &shapes, 1, 8)
        };
        memory(&sizes, StructureKind::Kfac)
    };
    let of = |n, rows| RowGroups {
        n,
        rows,
        bytes: 58_000 * rows,
    };
    let usual = memory(&job, of(1_000, 1_000), None);
    let large = memory(&job, of(50, 20_000), None);
    // Two groups for each of eight workers, of one row group; of several, two each; never more than there are.
    assert_eq!(large.row_groups, 16 * 58_000 * 20_000);
    assert_eq!(large.beside - large.row_groups, usual.beside - usual.row_groups);
    assert_eq!(memory(&job, of(100, 10_000), None).row_groups, 32 * 58_000 * 10_000);
    assert_eq!(memory(&job, of(3, 10_000), None).row_groups, 3 * 58_000 * 10_000);
    // Of small ones as many as are read ahead, 32 MiB.
    assert_eq!(
        memory(&job, of(50_000, 20), None).row_groups,
        16 * (58_000 * 20 + (32 << 20))
    );
    assert_eq!(memory(&job, of(1_000, 1_000), Some(of(50, 20_000))), large);
    job.compute.group = Some(4_096);
    assert_eq!(memory(&job, of(100, 10_000), None).row_groups, 16 * 58_000 * 10_000);
}
