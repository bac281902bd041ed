use fisherflow_curvature::BlockOptions;
use fisherflow_network::Precision;
use fisherflow_spectra::CatalogueColumns;

use super::*;
use crate::job::{CatalogueSource, Job};
use crate::plan::memory::RowGroups;

/// The layers of a network of such sizes, named as those of `torch.nn.Sequential`.
fn shapes(sizes: &[usize]) -> Vec<DenseShape> {
    let pairs = sizes.windows(2).enumerate();
    pairs
        .map(|(layer, pair)| DenseShape {
            name: format!("layers.{}", 2 * layer),
            inputs: pair[0],
            outputs: pair[1],
            bias: true,
            shared: 1,
        })
        .collect()
}

fn job(prior: Prior) -> Job {
    let catalogue = CatalogueSource::new(String::new(), CatalogueColumns::new("id", "flux"));
    let mut job = Job::new(String::new(), catalogue, prior, String::new());
    job.compute.arithmetic.precision = Precision::F32;
    job
}

const SPEX: [usize; 8] = [7213, 2048, 1024, 512, 256, 128, 32, 3];

/// One of 64 MiB.
const ROW_GROUPS: RowGroups = RowGroups {
    n: 1,
    rows: 1_000,
    bytes: 64 << 20,
};

/// What is chosen, in the order of the layers.
fn chosen(job: &Job, sizes: &[usize], n_rows: u64, memory: u64) -> Result<Vec<&'static str>, RunError> {
    chosen_for(job, &shapes(sizes), n_rows, memory)
}

fn chosen_for(job: &Job, shapes: &[DenseShape], n_rows: u64, memory: u64) -> Result<Vec<&'static str>, RunError> {
    let sizes = Sizes {
        job,
        shapes,
        n_pixels: shapes[0].inputs,
        pixel_bits: 96,
        n_labels: 3,
        n_rows,
        row_groups: ROW_GROUPS,
        predicted: None,
        processes: 1,
        workers: 1,
    };
    let choice = choose(&sizes, memory)?;
    assert_eq!(choice.by_layer.len(), shapes.len());
    for layer in &choice.chosen {
        assert!(layer.why.len() > 20, "{layer:?}");
    }
    Ok(choice.chosen.iter().map(|layer| layer.structure).collect())
}

#[test]
fn last_layers_are_exact_and_the_others_corrected() {
    for prior in [Prior::Fixed(1.0), Prior::Evidence, Prior::Holdout] {
        let found = chosen(&job(prior), &SPEX, 150_000, 8 << 30).unwrap();
        assert_eq!(
            found,
            ["ekfac", "ekfac", "ekfac", "ekfac", "ekfac", "block", "block"],
            "{prior:?}"
        );
    }
}

#[test]
fn a_small_network_is_held_in_full_where_the_spectra_determine_it() {
    // 40 x 8 + 8 + 8 x 3 + 3 = 355 weights; 3 labels, and a tenth held out.
    let small = [40, 8, 3];
    let job = job(Prior::Evidence);
    assert_eq!(chosen(&job, &small, 1_000, 8 << 30).unwrap(), ["full", "full"]);
    // 3 x ceil(0.9 x 131) = 354 labels x spectra are one too few.
    assert_eq!(chosen(&job, &small, 132, 8 << 30).unwrap(), ["full", "full"]);
    assert_eq!(chosen(&job, &small, 131, 8 << 30).unwrap(), ["dual", "dual"]);
}

#[test]
fn a_wide_network_on_few_stars_is_held_by_its_spectra() {
    // K N = 8,100 and 22,950, 25,110.
    let of = |prior, rows| chosen(&job(prior), &SPEX, rows, 8 << 30).unwrap()[0];
    assert_eq!(of(Prior::Evidence, 3_000), "dual");
    assert_eq!(of(Prior::Evidence, 8_500), "ekfac");
    assert_eq!(of(Prior::Fixed(1.0), 8_500), "dual");
    assert_eq!(of(Prior::Fixed(1.0), 9_300), "ekfac");
    // Without a prior the Gram matrix says nothing of most weights; nor may biases be split off, or other curvatures taken.
    assert_eq!(of(Prior::Fixed(0.0), 3_000), "ekfac");
    let by_layer = |all: f64, of_each: f64| {
        let mut job = job(Prior::Fixed(all));
        job.prior_by_layer = shapes(&SPEX).into_iter().map(|shape| (shape.name, of_each)).collect();
        chosen(&job, &SPEX, 3_000, 8 << 30).unwrap()[0]
    };
    assert_eq!((by_layer(1.0, 0.0), by_layer(0.0, 1.0)), ("ekfac", "dual"));
    // A given precision beside one that is found for another layer needs no eigenvalues, but where held-out spectra tell.
    let beside = |prior| {
        let mut job = job(prior);
        job.curvature
            .by_layer
            .insert("layers.12".into(), StructureKind::Diagonal);
        let given = shapes(&SPEX[..7]);
        job.prior_by_layer = given.into_iter().map(|shape| (shape.name, 1.0)).collect();
        chosen(&job, &SPEX, 8_500, 8 << 30).unwrap()[0]
    };
    assert_eq!((beside(Prior::Evidence), beside(Prior::Holdout)), ("dual", "ekfac"));
    let mut split = job(Prior::Fixed(1.0));
    split.curvature.options.split_bias = true;
    assert_eq!(chosen(&split, &SPEX, 3_000, 8 << 30).unwrap()[0], "ekfac");
    let mut fisher = job(Prior::Fixed(1.0));
    fisher.curvature.kind = CurvatureKind::EmpiricalFisher;
    assert_eq!(chosen(&fisher, &SPEX, 3_000, 8 << 30).unwrap()[0], "ekfac");
    let mut differing = job(Prior::Fixed(1.0));
    differing.prior_by_layer.insert("layers.0".into(), 3.0);
    assert_eq!(chosen(&differing, &SPEX, 3_000, 8 << 30).unwrap()[0], "ekfac");
    // Rows of 8 x 7,650 x (11,213 + 3 x 4,003) bytes and half a Gram matrix, 4 x 22,950^2: 3.5 GB.
    let within = |memory| chosen(&job(Prior::Fixed(1.0)), &SPEX, 8_500, memory).unwrap()[0];
    assert_ne!(within(3 << 30), "dual");
    assert_eq!(within(5 << 30), "dual");
}

/// Convolutions of 64 channels to 64: kernels of 15 pixels have 61,504 weights, those of 17 have 69,696; 21,600 labels x spectra.
#[test]
fn a_convolution_too_large_for_dual_is_held_otherwise() {
    let of_kernel = |pixels: usize| {
        let mut shapes = shapes(&[64 * pixels, 64, 3]);
        shapes[0].shared = 5;
        chosen_for(&job(Prior::Fixed(1.0)), &shapes, 8_000, 32 << 30).unwrap()
    };
    assert_eq!(of_kernel(15), ["dual", "dual"]);
    assert_eq!(of_kernel(17), ["ekfac", "block"]);
}

#[test]
fn tight_memory_makes_wide_layers_coarse_and_leaves_the_last_exact() {
    let job = job(Prior::Evidence);
    let at = |memory| chosen(&job, &SPEX, 150_000, memory).unwrap();
    let mut before = u64::MAX;
    for memory in [8 << 30, 4 << 30, 3 << 30, 2 << 30, 1500 << 20] {
        let structures = at(memory);
        let shapes = shapes(&SPEX);
        let by_layer: BTreeMap<String, StructureKind> = shapes
            .iter()
            .zip(&structures)
            .map(|(shape, name)| {
                let kinds = [
                    StructureKind::Block,
                    StructureKind::Ekfac,
                    StructureKind::Kfac,
                    StructureKind::Diagonal,
                ];
                (
                    shape.name.clone(),
                    kinds.into_iter().find(|kind| kind.to_string() == *name).unwrap(),
                )
            })
            .collect();
        let sizes = Sizes {
            job: &job,
            shapes: &shapes,
            n_pixels: shapes[0].inputs,
            pixel_bits: 96,
            n_labels: 3,
            n_rows: 150_000,
            row_groups: ROW_GROUPS,
            predicted: None,
            processes: 1,
            workers: 1,
        };
        let blocks = plan_blocks(&shapes, StructureKind::Diagonal, &by_layer, BlockOptions::default()).unwrap();
        let taken = sizes.memory(&blocks).unwrap().widest();
        assert!(
            taken <= memory && taken <= before,
            "{memory}: {structures:?} takes {taken}"
        );
        before = taken;
    }
    assert_eq!(at(8 << 30)[0], "ekfac");
    assert_eq!(at(1500 << 20)[0], "diagonal");
    assert_eq!(at(1500 << 20)[6], "block");
}

#[test]
fn layers_that_are_named_stay_as_they_are() {
    let mut job = job(Prior::Fixed(1.0));
    job.curvature
        .by_layer
        .insert("layers.0".into(), StructureKind::Diagonal);
    let found = chosen(&job, &SPEX, 150_000, 8 << 30).unwrap();
    assert_eq!(found, ["ekfac", "ekfac", "ekfac", "ekfac", "block", "block"]);
    let shapes = shapes(&SPEX);
    job.curvature.by_layer = shapes.iter().map(|s| (s.name.clone(), StructureKind::Kfac)).collect();
    assert!(chosen(&job, &SPEX, 150_000, 1).unwrap().is_empty());
}

#[test]
fn where_nothing_fits_the_bytes_are_said() {
    // 3 sums of 17.6 million weights in f64 alone are four times as much.
    let error = chosen(&job(Prior::Fixed(1.0)), &SPEX, 150_000, 100 << 20).unwrap_err();
    let text = error.to_string();
    for said in ["curvature.memory", "\"diagonal\"", "(104857600 bytes)", "100.0 MiB"] {
        assert!(text.contains(said), "{text}");
    }
    assert_eq!(error.exit_code(), 2);
    let mut hessian = job(Prior::Fixed(1.0));
    hessian.curvature.kind = CurvatureKind::Hessian;
    let error = chosen(&hessian, &SPEX, 150_000, 8 << 30).unwrap_err().to_string();
    assert!(error.contains("\"block\"") && error.contains("PiB"), "{error}");
    assert_eq!(chosen(&hessian, &[40, 8, 3], 20, 8 << 30).unwrap(), ["block", "block"]);
}
