//! The inputs of wide layers in coordinates of their own span.
//!
//! Where a layer has more inputs than spectra are compared, all their inputs lie in a subspace of few dimensions. In an orthonormal basis `Q` of
//! it, `a = Q c`, inner products are those of the coordinates `c`; so the exact posterior is the same, and so are `kfac` and `ekfac`: a
//! factor `sum a a^T` has the eigenvalues of `sum c c^T` and else 0, eigenvectors `Q v`, and no spectrum has a part in the rest, where weights keep
//! their prior. With 2,500 spectra of 7,213 pixels the first factor's eigenproblem costs a twentieth. `diagonal` does depend on the basis.
//!
//! `[a0, a_1, ..., a_n] = Q R` by Householder reflections: the coordinates are R's columns, `Q` is never formed, and no Gram matrix squares the
//! condition.

use candle_core::{DType, Tensor};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::{Mat, MatMut, Par};
use fisherflow_curvature::{BlockPlan, LabelPrecision, References, StructureKind};
use fisherflow_network::{DenseShape, LayerCapture};

use super::Subset;
use crate::PosteriorError;

/// What a [`Subset`] has, its wide layers in fewer coordinates.
pub(super) struct InTheirSpan {
    shapes: Vec<DenseShape>,
    plans: Vec<BlockPlan>,
    training: Vec<LayerCapture>,
    summed: Vec<LayerCapture>,
    references: References,
    stars: Vec<LayerCapture>,
}

impl InTheirSpan {
    /// `None` where no layer has more inputs than there are spectra, or each that has is held, or compared, as `diagonal`.
    pub(super) fn of(subset: &Subset<'_>, compare: &[StructureKind]) -> Result<Option<Self>, PosteriorError> {
        let n_spectra = |captures: &[LayerCapture]| {
            captures
                .first()
                .map_or(0, |c| c.input.dims().first().copied().unwrap_or(0))
        };
        let n = 1 + n_spectra(subset.training.0) + n_spectra(subset.stars);
        let wide = wide_layers(subset.shapes, subset.plans, compare, n);
        if wide.is_empty() {
            return Ok(None);
        }
        let mut found = Self {
            shapes: subset.shapes.to_vec(),
            plans: subset.plans.to_vec(),
            training: subset.training.0.to_vec(),
            summed: subset.summed.0.to_vec(),
            references: subset.references.clone(),
            stars: subset.stars.to_vec(),
        };
        for layer in wide {
            found.turn(layer)?;
        }
        Ok(Some(found))
    }

    /// The subset of these, in place of `of`.
    pub(super) fn subset<'a>(&'a self, of: &Subset<'a>) -> Subset<'a> {
        let spectra = |captures: &'a [LayerCapture], precision: &'a LabelPrecision| (captures, precision);
        Subset {
            shapes: &self.shapes,
            plans: &self.plans,
            training: spectra(&self.training, of.training.1),
            summed: spectra(&self.summed, of.summed.1),
            references: &self.references,
            stars: &self.stars,
            ..*of
        }
    }

    /// One layer.
    fn turn(&mut self, layer: usize) -> Result<(), PosteriorError> {
        let d = self.shapes[layer].inputs;
        let capture = |captures: &[LayerCapture]| -> Option<usize> { captures.iter().position(|c| c.layer == layer) };
        let (Some(training), Some(summed), Some(stars)) =
            (capture(&self.training), capture(&self.summed), capture(&self.stars))
        else {
            // Whoever looks for it says so.
            return Ok(());
        };
        let mut columns = self.references.input_mean[layer].clone();
        for input in [&self.training[training].input, &self.stars[stars].input] {
            columns.extend(input.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?);
        }
        let n = columns.len() / d;
        let coordinates = triangle(&mut columns, d);
        let (n_training, dtype) = (
            self.training[training].input.dims()[0],
            self.training[training].input.dtype(),
        );
        let rows = |first: usize, len: usize| -> Result<Tensor, PosteriorError> {
            let values = &coordinates[first * n..(first + len) * n];
            let device = self.stars[stars].input.device();
            Ok(Tensor::from_slice(values, (len, 1, n), device)?.to_dtype(dtype)?)
        };
        let (of_training, of_stars) = (rows(1, n_training)?, rows(1 + n_training, n - 1 - n_training)?);
        self.references.input_mean[layer] = coordinates[..n].to_vec();
        self.training[training].input = of_training.clone();
        self.summed[summed].input = of_training;
        self.stars[stars].input = of_stars;
        narrow(&mut self.shapes, &mut self.plans, layer, n);
        Ok(())
    }
}

/// The layers of more inputs than there are `vectors` of them that are held in a structure which no basis changes; none where one compared
/// beside depends on it.
pub(super) fn wide_layers(
    shapes: &[DenseShape],
    plans: &[BlockPlan],
    compare: &[StructureKind],
    vectors: usize,
) -> Vec<usize> {
    let turns = |structure: &StructureKind| !matches!(structure, StructureKind::Diagonal | StructureKind::LowRank);
    if !compare.iter().all(turns) {
        return Vec::new();
    }
    let is_wide = |layer: usize| {
        let held = plans.iter().find(|plan| plan.layers.contains(&layer));
        shapes[layer].shared == 1 && shapes[layer].inputs > vectors && held.is_some_and(|plan| turns(&plan.structure))
    };
    (0..shapes.len()).filter(|&layer| is_wide(layer)).collect()
}

/// Gives a layer so many inputs.
pub(super) fn narrow(shapes: &mut [DenseShape], plans: &mut [BlockPlan], layer: usize, inputs: usize) {
    shapes[layer].inputs = inputs;
    for plan in plans {
        for (of, shape) in plan.layers.iter().zip(&mut plan.shapes) {
            if *of == layer {
                shape.inputs = inputs;
            }
        }
    }
}

/// The coordinates of vectors of `d` numbers, one after the other, in an orthonormal basis of their span: `[n, n]` of `n` vectors, row-major.
/// Overwrites them.
fn triangle(vectors: &mut [f64], d: usize) -> Vec<f64> {
    let n = vectors.len() / d;
    let mut matrix = MatMut::from_column_major_slice_mut(vectors, d, n);
    let block = recommended_block_size::<f64>(d, n);
    let mut reflections = Mat::zeros(block, d.min(n));
    let mut memory = MemBuffer::new(qr_in_place_scratch::<f64>(d, n, block, Par::Seq, Default::default()));
    // On one thread: the bits are the same on any number.
    qr_in_place(
        matrix.as_mut(),
        reflections.as_mut(),
        Par::Seq,
        MemStack::new(&mut memory),
        Default::default(),
    );
    let mut coordinates = vec![0.0; n * n];
    for (column, row) in coordinates.chunks_exact_mut(n).enumerate() {
        for (at, to) in row.iter_mut().enumerate().take(column + 1) {
            *to = matrix[(at, column)];
        }
    }
    coordinates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::dot;
    use crate::structures::cases::draw;

    #[test]
    fn coordinates_keep_all_inner_products() {
        for (n, d) in [(1, 5), (7, 40), (40, 60), (60, 60)] {
            let mut vectors = draw(n * d, 17);
            // Alike, and two the same.
            for (at, value) in vectors.iter_mut().enumerate() {
                *value = 1.0 + 1e-3 * *value + 1e-6 * (at % d) as f64;
            }
            if n > 2 {
                vectors.copy_within(0..d, 2 * d);
            }
            let of = |vectors: &[f64], d: usize, i: usize, j: usize| {
                let row = |i: usize| &vectors[i * d..(i + 1) * d];
                let difference: Vec<f64> = row(i).iter().zip(row(j)).map(|(a, b)| a - b).collect();
                (dot(row(i), row(j)), dot(&difference, &difference).sqrt())
            };
            let coordinates = triangle(&mut vectors.clone(), d);
            for i in 0..n {
                for j in 0..n {
                    let (found, expected) = (of(&coordinates, n, i, j), of(&vectors, d, i, j));
                    assert!((found.0 / expected.0 - 1.0).abs() < 1e-13, "{n} {d}");
                    assert!(
                        (found.1 - expected.1).abs() < 1e-14 * d as f64,
                        "{n} {d}: {found:?} {expected:?}"
                    );
                }
            }
        }
    }
}
