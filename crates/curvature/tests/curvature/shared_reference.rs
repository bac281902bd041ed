//! Reference outputs of a small ReLU network (float64, made with another framework and checked against five others), where they are at hand.

use candle_core::DType;
use fisherflow_curvature::{LabelPrecision, Matrix, ReferenceSums, StructureKind};

use crate::brute_force::{
    Between, Dense, Mlp, block, curvature, dense, diagonal, kronecker, layers_of, relative_error, sums,
};
use crate::npz::Array;
use crate::references::{Arrays, beside_the_repository};

const TOLERANCE: f64 = 1e-9;

fn matrix(arrays: &Arrays, name: &str) -> Matrix {
    let Array { shape, values } = &arrays[name];
    Matrix {
        rows: shape[0],
        cols: shape[1],
        values: values.clone(),
    }
}

/// The network, its spectra, and for each weight in our order its place in the reference's: there each layer is W, then b.
fn case(arrays: &Arrays) -> (Mlp, Vec<Vec<f64>>, Vec<usize>) {
    let mut layers = Vec::new();
    let mut places = Vec::new();
    let mut start = 0;
    for l in 0..3 {
        let Array { shape, values: w } = &arrays[&format!("W_{l}")];
        let b = &arrays[&format!("b_{l}")].values;
        let (outputs, inputs) = (shape[0], shape[1]);
        let mut weights = Vec::new();
        for o in 0..outputs {
            weights.extend(&w[o * inputs..(o + 1) * inputs]);
            weights.push(b[o]);
            places.extend((0..inputs).map(|i| start + o * inputs + i));
            places.push(start + outputs * inputs + o);
        }
        start += outputs * (inputs + 1);
        layers.push(Dense {
            inputs,
            outputs,
            weights,
        });
    }
    let Array { shape, values: x } = &arrays["X"];
    (
        Mlp {
            layers,
            between: Between::Relu,
        },
        x.chunks(shape[1]).map(<[f64]>::to_vec).collect(),
        places,
    )
}

fn permuted(matrix: &Matrix, places: &[usize]) -> Matrix {
    let values = places
        .iter()
        .flat_map(|i| places.iter().map(move |j| matrix.values[i * matrix.cols + j]))
        .collect();
    Matrix {
        rows: places.len(),
        cols: places.len(),
        values,
    }
}

#[test]
fn tiny_mlp() {
    agrees_on_tiny_mlp(DType::F64, TOLERANCE);
}

/// Captures and products of a run in f32.
#[test]
fn tiny_mlp_in_f32() {
    agrees_on_tiny_mlp(DType::F32, 1e-4);
}

fn agrees_on_tiny_mlp(dtype: DType, tolerance: f64) {
    let Some(arrays) = beside_the_repository(&["tiny_mlp"]) else {
        return;
    };
    let (net, spectra, places) = case(&arrays);
    let shapes = net.shapes();
    let precision = LabelPrecision::constant(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], spectra.len()).unwrap();
    let batches = [(net.captures(&spectra, dtype), precision)];

    let ggn = permuted(&matrix(&arrays, "ggn"), &places);
    let full = curvature(&block(&shapes, StructureKind::Full, &[0, 1, 2]), &batches, &shapes);
    assert!(relative_error(dense(&full), &ggn) < tolerance);

    let reference_diagonal = &arrays["ggn_diag"].values;
    let mut means = ReferenceSums::empty(&shapes, 3);
    means.accumulate(&batches[0].0).unwrap();
    let means = means.finish().unwrap();
    let mut start = 0;
    for layer in 0..3 {
        let n_weights = shapes[layer].n_weights();
        let found = curvature(&block(&shapes, StructureKind::Diagonal, &[layer]), &batches, &shapes);
        let found = diagonal(&found);
        let values = places[start..start + n_weights]
            .iter()
            .map(|&i| reference_diagonal[i])
            .collect();
        assert!(
            relative_error(
                found,
                &Matrix {
                    rows: found.rows,
                    cols: found.cols,
                    values
                }
            ) < tolerance
        );
        start += n_weights;

        let exact = curvature(&block(&shapes, StructureKind::Block, &[layer]), &batches, &shapes);
        assert!(relative_error(dense(&exact), &layers_of(&ggn, &shapes, &[layer])) < tolerance);

        let (sums, structure) = sums(&block(&shapes, StructureKind::Kfac, &[layer]), &batches, &means, 2);
        let found = structure.curvature(&sums).unwrap();
        let (a, g) = kronecker(&found);
        assert!(relative_error(a, &matrix(&arrays, &format!("A_{layer}"))) < tolerance);
        assert!(relative_error(g, &matrix(&arrays, &format!("G_{layer}"))) < tolerance);
    }
}

#[test]
fn tiny_mlp_blocks_are_blocks_of_the_hessian() {
    let Some(arrays) = beside_the_repository(&["tiny_mlp", "tiny_mlp_inverse"]) else {
        return;
    };
    let (net, spectra, places) = case(&arrays);
    let hessian = permuted(&matrix(&arrays, "hessian"), &places);
    let shapes = net.shapes();
    let precision = LabelPrecision::constant(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], spectra.len()).unwrap();
    let batches = [(net.captures(&spectra, DType::F64), precision)];
    for layer in 0..3 {
        let exact = curvature(&block(&shapes, StructureKind::Block, &[layer]), &batches, &shapes);
        assert!(relative_error(dense(&exact), &layers_of(&hessian, &shapes, &[layer])) < TOLERANCE);
    }
}
