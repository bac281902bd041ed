//! Layers that use their weights at several positions of a spectrum: a small convolutional network against reference outputs, and every
//! structure against sums over rows of the weight Jacobian.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use fisherflow_curvature::{
    BlockOptions, BlockPlan, CurvatureForm, KroneckerBases, LabelPrecision, Matrix, ProductSums, ReferenceSums,
    References, StructureKind, WeightSharing, add_ggn_products, add_gradient, correction_of, plan_blocks,
};
use fisherflow_network::{Arithmetic, DenseShape, LayerCapture, Precision, WeightDirections};

use crate::brute_force::{block, dense, diagonal, kronecker, label_covariances, relative_error, sums};
use crate::conv_net::{ConvNet, jacobian, places};
use crate::npz::Array;
use crate::references::{Arrays, beside_the_repository};

const UNIT: [f64; 9] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];

fn case() -> Option<(Arrays, ConvNet)> {
    let arrays = beside_the_repository(&["tiny_conv_valid"])?;
    let net = ConvNet::new(&arrays);
    Some((arrays, net))
}

fn matrix(arrays: &Arrays, name: String) -> Matrix {
    let Array { shape, values } = &arrays[&name];
    Matrix {
        rows: shape[0],
        cols: shape[1],
        values: values.clone(),
    }
}

fn means(net: &ConvNet, captures: &[LayerCapture]) -> References {
    let mut means = ReferenceSums::empty(&net.shapes(), 3);
    means.accumulate(captures).unwrap();
    means.finish().unwrap()
}

fn sharing(plan: BlockPlan, weight_sharing: WeightSharing) -> BlockPlan {
    let mut plan = plan;
    plan.options.weight_sharing = weight_sharing;
    plan
}

#[test]
fn a_convolutional_net_has_its_reference_curvature() {
    for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 1e-4)] {
        let Some((arrays, net)) = case() else { return };
        let (shapes, n) = (net.shapes(), arrays["X"].shape[0]);
        let captures = net.captures(&arrays["X"], dtype);
        let references = means(&net, &captures);
        let batches = [(captures, LabelPrecision::constant(&UNIT, n).unwrap())];
        let mut first = 0;
        for (layer, shape) in shapes.iter().enumerate() {
            for (kind, prefix) in [(WeightSharing::Expand, ""), (WeightSharing::Reduce, "reduce_")] {
                if layer >= 2 && kind == WeightSharing::Reduce {
                    continue;
                }
                let plan = sharing(block(&shapes, StructureKind::Kfac, &[layer]), kind);
                let (summed, structure) = sums(&plan, &batches, &references, 2);
                let found = structure.curvature(&summed).unwrap();
                let (a, g) = kronecker(&found);
                let expected = |factor: &str| matrix(&arrays, format!("{factor}_{prefix}{layer}"));
                assert!(relative_error(a, &expected("A")) < tolerance, "A_{prefix}{layer}");
                assert!(relative_error(g, &expected("G")) < tolerance, "G_{prefix}{layer}");
                let terms = match (layer, kind) {
                    (0 | 1, WeightSharing::Expand) => arrays[&format!("T_{layer}")].values[0],
                    _ => 1.0,
                };
                assert_eq!(*a.values.last().unwrap(), n as f64 * terms);
                assert_eq!(found.n_spectra, n as u64);
            }

            let places = places(shape);
            let (summed, structure) = sums(
                &block(&shapes, StructureKind::Diagonal, &[layer]),
                &batches,
                &references,
                1,
            );
            let found = structure.curvature(&summed).unwrap();
            let values = places.iter().map(|at| arrays["ggn_diag"].values[first + at]).collect();
            let expected = Matrix {
                values,
                ..diagonal(&found).clone()
            };
            assert!(relative_error(diagonal(&found), &expected) < tolerance);
            first += shape.n_weights();

            let Some(name) = [Some("ggn_conv1"), None, None, Some("ggn_last")][layer] else {
                continue;
            };
            let (summed, structure) = sums(
                &block(&shapes, StructureKind::Block, &[layer]),
                &batches,
                &references,
                1,
            );
            let found = structure.curvature(&summed).unwrap();
            let (ggn, p) = (&arrays[name].values, places.len());
            let expected = Matrix {
                rows: p,
                cols: p,
                values: (0..p * p).map(|at| ggn[places[at / p] * p + places[at % p]]).collect(),
            };
            assert!(relative_error(dense(&found), &expected) < tolerance);
        }
    }
}

/// Rows of the Jacobian of some layers side by side, whitened by nothing: `sum_n J^T Lam_n J`.
fn ggn(captures: &[LayerCapture], layers: &[usize], precision: &LabelPrecision) -> Matrix {
    let parts: Vec<Vec<Vec<f64>>> = layers.iter().map(|&l| jacobian(&captures[l])).collect();
    let rows: Vec<Vec<f64>> = (0..parts[0].len())
        .map(|row| parts.iter().flat_map(|part| part[row].clone()).collect())
        .collect();
    let p = rows[0].len();
    let mut values = vec![0.0; p * p];
    for (star, lam) in precision.lam.chunks_exact(9).enumerate() {
        for (at, lam) in lam.iter().enumerate() {
            let (left, right) = (&rows[star * 3 + at / 3], &rows[star * 3 + at % 3]);
            for (row, x) in values.chunks_exact_mut(p).zip(left) {
                row.iter_mut().zip(right).for_each(|(to, y)| *to += lam * x * y);
            }
        }
    }
    Matrix {
        rows: p,
        cols: p,
        values,
    }
}

#[test]
fn exact_structures_are_of_the_summed_gradient_whatever_the_label_precisions() {
    let Some((arrays, net)) = case() else { return };
    let (shapes, n) = (net.shapes(), arrays["X"].shape[0]);
    let captures = net.captures(&arrays["X"], DType::F64);
    let precision = LabelPrecision::per_spectrum(&UNIT, Some(&label_covariances(n, 3, 51)), n).unwrap();
    let zero = References::zero(&shapes, 3);
    let expected = ggn(&captures, &[0, 1, 3], &precision);
    let batches = [(captures, precision)];
    let (summed, structure) = sums(&block(&shapes, StructureKind::Full, &[0, 1, 3]), &batches, &zero, 2);
    let found = structure.curvature(&summed).unwrap();
    assert!(relative_error(dense(&found), &expected) < 1e-13);
    for (layer, first) in [(0, 0), (1, 36)] {
        let (summed, structure) = sums(&block(&shapes, StructureKind::Diagonal, &[layer]), &batches, &zero, 2);
        let found = structure.curvature(&summed).unwrap();
        let n_weights = shapes[layer].n_weights();
        let values = (first..first + n_weights)
            .map(|i| expected.values[i * expected.cols + i])
            .collect();
        let expected = Matrix {
            values,
            ..diagonal(&found).clone()
        };
        assert!(relative_error(diagonal(&found), &expected) < 1e-13);
    }
}

#[test]
fn factors_do_not_depend_on_references_threads_or_the_cut_into_batches() {
    let Some((arrays, net)) = case() else { return };
    let (shapes, n) = (net.shapes(), arrays["X"].shape[0]);
    let captures = net.captures(&arrays["X"], DType::F64);
    let precision = |rows: std::ops::Range<usize>| {
        let own = label_covariances(n, 3, 52);
        LabelPrecision::per_spectrum(&UNIT, Some(&own[rows.start * 9..rows.end * 9]), rows.len()).unwrap()
    };
    let rows = |rows: std::ops::Range<usize>| -> Vec<LayerCapture> {
        let at: Vec<u32> = rows.map(|row| row as u32).collect();
        let at = Tensor::new(at.as_slice(), captures[0].input.device()).unwrap();
        captures.iter().map(|c| c.select(&at).unwrap()).collect()
    };
    let whole = [(captures.clone(), precision(0..n))];
    let cut = [(rows(0..7), precision(0..7)), (rows(7..n), precision(7..n))];
    let (zero, means) = (References::zero(&shapes, 3), means(&net, &captures));
    for kind in [WeightSharing::Expand, WeightSharing::Reduce] {
        let plan = sharing(block(&shapes, StructureKind::Kfac, &[1]), kind);
        let (one, structure) = sums(&plan, &whole, &means, 1);
        assert_eq!(one, sums(&plan, &whole, &means, 3).0);
        let expected = structure.curvature(&one).unwrap();
        for (batches, references) in [(&whole[..], &zero), (&cut[..], &means)] {
            let (summed, structure) = sums(&plan, batches, references, 1);
            let found = structure.curvature(&summed).unwrap();
            assert!(relative_error(kronecker(&found).0, kronecker(&expected).0) < 1e-13);
            assert!(relative_error(kronecker(&found).1, kronecker(&expected).1) < 1e-13);
        }
    }
}

/// Places, in weights with biases, of the weights alone.
fn without_biases(shapes: &[DenseShape]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut start = 0;
    for shape in shapes {
        let columns = shape.inputs + 1;
        places.extend(
            (0..shape.outputs * columns)
                .filter(|at| at % columns < shape.inputs)
                .map(|at| start + at),
        );
        start += shape.outputs * columns;
    }
    places
}

fn picked(matrix: &Matrix, places: &[usize]) -> Matrix {
    let n = places.len();
    let at = |at: usize| matrix.values[places[at / n] * matrix.cols + places[at % n]];
    Matrix {
        rows: n,
        cols: n,
        values: (0..n * n).map(at).collect(),
    }
}

#[test]
fn layers_without_bias_have_the_curvature_of_their_weights_alone() {
    let Some((arrays, net)) = case() else { return };
    let (shapes, n) = (net.shapes(), arrays["X"].shape[0]);
    let bare: Vec<DenseShape> = shapes
        .iter()
        .cloned()
        .map(|shape| DenseShape { bias: false, ..shape })
        .collect();
    let captures = net.captures(&arrays["X"], DType::F64);
    let references = means(&net, &captures);
    let precision = LabelPrecision::per_spectrum(&UNIT, Some(&label_covariances(n, 3, 53)), n).unwrap();
    let batches = [(captures.clone(), precision.clone())];
    let curvature = |shapes: &[DenseShape], kind, layers: &[usize], split_bias| {
        let mut plan = block(shapes, kind, layers);
        plan.options.split_bias = split_bias;
        let (summed, structure) = sums(&plan, &batches, &references, 1);
        structure.curvature(&summed).unwrap()
    };
    for layer in [0, 1, 3] {
        let own = &shapes[layer..=layer];
        let exact = picked(&ggn(&captures, &[layer], &precision), &without_biases(own));
        for split in [false, true] {
            let found = curvature(&bare, StructureKind::Block, &[layer], split);
            assert!(relative_error(dense(&found), &exact) < 1e-13);
        }
        let found = curvature(&bare, StructureKind::Diagonal, &[layer], false);
        let p = exact.rows;
        let expected = Matrix {
            rows: shapes[layer].outputs,
            cols: shapes[layer].inputs,
            values: (0..p).map(|i| exact.values[i * (p + 1)]).collect(),
        };
        assert!(relative_error(diagonal(&found), &expected) < 1e-13);

        let (found, whole) = (
            curvature(&bare, StructureKind::Kfac, &[layer], false),
            curvature(&shapes, StructureKind::Kfac, &[layer], false),
        );
        let inputs: Vec<usize> = (0..shapes[layer].inputs).collect();
        assert_eq!(*kronecker(&found).0, picked(kronecker(&whole).0, &inputs));
        assert_eq!(kronecker(&found).1, kronecker(&whole).1);

        // The diagonal of the exact block in bases of its own.
        let side = inputs.len();
        let eye = |n: usize| Matrix {
            rows: n,
            cols: n,
            values: (0..n * n).map(|at| f64::from(u8::from(at % (n + 1) == 0))).collect(),
        };
        let bases = std::sync::Arc::new(KroneckerBases::new(eye(side), eye(shapes[layer].outputs)));
        let correction =
            correction_of(&block(&bare, StructureKind::Ekfac, &[layer]), &references, bases, 3, 1).unwrap();
        let mut summed = correction.empty().unwrap();
        correction.accumulate(&captures, &precision, &mut summed).unwrap();
        let CurvatureForm::Eigenbasis { eigenvalues, .. } = correction.curvature(&summed).unwrap().form else {
            panic!("not in an eigenbasis");
        };
        assert!(relative_error(&eigenvalues, &expected) < 1e-12);
    }
    let found = curvature(&bare, StructureKind::Full, &[0, 3], false);
    let own = [shapes[0].clone(), shapes[3].clone()];
    let expected = picked(&ggn(&captures, &[0, 3], &precision), &without_biases(&own));
    assert!(relative_error(dense(&found), &expected) < 1e-13);
}

/// With all unit vectors for directions the products are the GGN; so many are taken a few spectra at a time.
#[test]
fn products_sum_over_positions() {
    let Some((arrays, net)) = case() else { return };
    let (with_biases, n) = (net.shapes(), arrays["X"].shape[0]);
    let layers = [0, 1, 3];
    for (dtype, precision_of, tolerance) in [(DType::F64, Precision::F64, 1e-12), (DType::F32, Precision::F32, 1e-5)] {
        for bias in [true, false] {
            let captures = net.captures(&arrays["X"], dtype);
            let precision = LabelPrecision::per_spectrum(&UNIT, Some(&label_covariances(n, 3, 54)), n).unwrap();
            let shapes: Vec<DenseShape> = layers
                .iter()
                .map(|&l| DenseShape {
                    bias,
                    ..with_biases[l].clone()
                })
                .collect();
            let chosen = layers.map(|l| with_biases[l].clone());
            let p: usize = shapes.iter().map(DenseShape::n_weights).sum();
            let places = if bias {
                (0..p).collect()
            } else {
                without_biases(&chosen)
            };
            let expected = picked(&ggn(&captures, &layers, &precision), &places);
            let units: Vec<f64> = (0..p * p).map(|at| f64::from(u8::from(at % (p + 1) == 0))).collect();
            let arithmetic = Arithmetic {
                precision: precision_of,
                threads: 1,
            };
            let directions = WeightDirections::new(&layers, &shapes, &units, &arithmetic).unwrap();
            let mut found = Vec::new();
            for threads in [1, 3] {
                let mut products = ProductSums::empty(&layers, &shapes, p);
                add_ggn_products(&captures, &precision, &directions, &mut products, threads).unwrap();
                found.push(products.products().unwrap());
            }
            assert_eq!(found[0], found[1], "bits do not depend on threads");
            let values = found.swap_remove(0);
            let found = Matrix {
                values,
                ..expected.clone()
            };
            assert!(relative_error(&found, &expected) < tolerance, "{dtype:?} {bias}");

            let residuals: Vec<f64> = arrays["Y"]
                .values
                .iter()
                .zip(&arrays["f"].values)
                .map(|(y, f)| y - f)
                .collect();
            let weighted = precision.times(&residuals).unwrap();
            let rows: Vec<Vec<Vec<f64>>> = layers.iter().map(|&l| jacobian(&captures[l])).collect();
            let mut gradient = vec![0.0; 0];
            for own in &rows {
                let mut sum = vec![0.0; own[0].len()];
                for (row, weight) in own.iter().zip(&weighted) {
                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += weight * x);
                }
                gradient.extend(sum);
            }
            let expected = Matrix {
                rows: 1,
                cols: p,
                values: places.iter().map(|&at| gradient[at]).collect(),
            };
            let mut sums = ProductSums::empty(&layers, &shapes, 1);
            add_gradient(&captures, &precision, &residuals, &mut sums, 2).unwrap();
            let found = Matrix {
                values: sums.products().unwrap(),
                ..expected.clone()
            };
            assert!(relative_error(&found, &expected) < tolerance, "{dtype:?} {bias}");
        }
    }
}

#[test]
fn rows_of_a_large_shared_layer_are_refused() {
    let shape = |inputs, shared| DenseShape {
        name: "layers.0".to_owned(),
        inputs,
        outputs: 256,
        bias: true,
        shared,
    };
    let dual = |shape| plan_blocks(&[shape], StructureKind::Dual, &BTreeMap::new(), BlockOptions::default());
    assert!(dual(shape(255, 9)).is_ok() && dual(shape(4000, 1)).is_ok());
    let error = dual(shape(256, 9)).unwrap_err().to_string();
    assert!(
        error.contains("`layers.0` shares 65792 weights") && error.contains("hold it as kfac"),
        "{error}"
    );
}
