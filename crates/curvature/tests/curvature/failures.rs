//! What is refused, and what the refusal says.

use candle_core::DType;
use fisherflow_curvature::{CurvatureError, LabelPrecision, References, StructureKind, structure_of};
use fisherflow_network::{DenseShape, LayerCapture};

use crate::brute_force::{Between, Mlp, block, spectra, sums};

const IDENTITY: [f64; 9] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
const ALL: [StructureKind; 4] = [
    StructureKind::Full,
    StructureKind::Block,
    StructureKind::Kfac,
    StructureKind::Diagonal,
];

fn case() -> (Vec<DenseShape>, Vec<LayerCapture>, LabelPrecision) {
    let net = Mlp::random(&[4, 5, 3], Between::Relu, 1);
    (
        net.shapes(),
        net.captures(&spectra(6, 4, 2), DType::F64),
        LabelPrecision::constant(&IDENTITY, 6).unwrap(),
    )
}

#[test]
fn captures_that_do_not_fit_are_named_and_add_nothing() {
    let (shapes, captures, precision) = case();
    let mut other_type = captures.clone();
    other_type[1].output_grad = captures[1].output_grad.to_dtype(DType::F32).unwrap();
    let mut half = captures.clone();
    half[1].input = captures[1].input.to_dtype(DType::BF16).unwrap();
    let mut shared = captures.clone();
    shared[1].input = captures[1].input.reshape((3, 2, 5)).unwrap();
    let other_batch = LabelPrecision::constant(&IDENTITY, 5).unwrap();
    let other_labels = LabelPrecision::constant(&IDENTITY[..1], 6).unwrap();
    let cases: [(&[LayerCapture], &LabelPrecision, &str); 6] = [
        (
            &captures[..1],
            &precision,
            "layer layers.2 has no capture in this batch; a batch must carry the captures of all dense layers",
        ),
        (
            &other_type,
            &precision,
            "layer layers.2: captured output_grad is F32; captures are both f32 or both f64",
        ),
        (
            &half,
            &precision,
            "layer layers.2: captured input is BF16; captures are both f32 or both f64",
        ),
        (
            &shared,
            &precision,
            "layer layers.2: captured input has shape [3, 2, 5], expected [6, 1, 5]",
        ),
        (
            &captures,
            &other_batch,
            "layer layers.2: captured input has shape [6, 1, 5], expected [5, 1, 5]",
        ),
        (&captures, &other_labels, "label precision has 6 values, expected 54"),
    ];
    for kind in ALL {
        let structure = structure_of(&block(&shapes, kind, &[1]), &References::zero(&shapes, 3), 3, 1).unwrap();
        let empty = structure.empty().unwrap();
        for (captures, precision, message) in &cases {
            let mut sums = empty.clone();
            assert_eq!(
                structure
                    .accumulate(captures, precision, &mut sums)
                    .unwrap_err()
                    .to_string(),
                *message
            );
            assert_eq!(sums, empty);
        }
    }
}

#[test]
fn sums_of_another_block_are_refused_everywhere() {
    let (shapes, captures, precision) = case();
    for kind in ALL {
        let batches = [(captures.clone(), precision.clone())];
        let (mine, structure) = sums(&block(&shapes, kind, &[1]), &batches, &References::zero(&shapes, 3), 1);
        let mut of_another = mine.clone();
        of_another.block = 7;
        let mut of_another_kind = mine.clone();
        of_another_kind.structure = if kind == StructureKind::Kfac {
            StructureKind::Block
        } else {
            StructureKind::Kfac
        };
        let mut short = mine;
        short.sums.pop();
        for mut other in [of_another, of_another_kind, short] {
            assert!(matches!(
                structure.curvature(&other),
                Err(CurvatureError::SumsDiffer { .. })
            ));
            assert!(matches!(
                structure.accumulate(&captures, &precision, &mut other),
                Err(CurvatureError::SumsDiffer { .. })
            ));
        }
    }
}

#[test]
fn sums_that_are_not_finite_name_block_and_layer() {
    let (shapes, mut captures, precision) = case();
    captures[1].input = (&captures[1].input / 0.0).unwrap();
    for (kind, layers, name) in [
        (StructureKind::Full, vec![0, 1], "layers.0+layers.2"),
        (StructureKind::Block, vec![1], "layers.2"),
        (StructureKind::Kfac, vec![1], "layers.2"),
        (StructureKind::Diagonal, vec![1], "layers.2"),
    ] {
        let batches = [(captures.clone(), precision.clone())];
        let (sums, structure) = sums(
            &block(&shapes, kind, &layers),
            &batches,
            &References::zero(&shapes, 3),
            1,
        );
        match structure.curvature(&sums) {
            Err(CurvatureError::NonFiniteSums {
                block,
                layer,
                n_spectra,
                ..
            }) => {
                assert_eq!((block.as_str(), layer.as_str(), n_spectra), (name, "layers.2", 6));
            }
            other => panic!("{kind}: {other:?}"),
        }
    }
}

#[test]
fn references_of_another_network_are_refused() {
    let (shapes, ..) = case();
    let mut references = References::zero(&shapes, 3);
    references.gradient_mean[1].pop();
    let refused = structure_of(&block(&shapes, StructureKind::Kfac, &[1]), &references, 3, 1)
        .err()
        .unwrap()
        .to_string();
    assert_eq!(
        refused,
        "reference gradient mean of layer layers.2 has 8 values, expected 9; compute the references again for this network"
    );
}

#[test]
fn a_matrix_that_no_memory_holds_is_an_error() {
    for side in [1_000_000, 1_000_000_000] {
        let shapes = [DenseShape {
            name: "layers.0".to_owned(),
            inputs: side,
            outputs: side,
            bias: true,
            shared: 1,
        }];
        let plan = block(&shapes, StructureKind::Block, &[0]);
        let structure = structure_of(
            &plan,
            &References {
                input_mean: vec![],
                gradient_mean: vec![],
            },
            3,
            1,
        )
        .unwrap();
        assert!(matches!(structure.empty(), Err(CurvatureError::TooLarge { .. })));
    }
}
