//! The posterior of some of a block's weights: a layer of a `full` block, or all of a block.
//!
//! The other weights of the block are not fixed but integrated out: what is answered is of the part's own rows and columns of `P^-1`.

use std::borrow::Cow;
use std::ops::Range;

use fisherflow_curvature::Matrix;
use fisherflow_network::DenseShape;

use crate::{BlockInfo, PosteriorError, Precision};

/// A block's posterior, asked about some layers that follow one another in it.
pub struct PosteriorPart {
    precision: Box<dyn Precision>,
    shapes: Vec<DenseShape>,
    range: Range<usize>,
}

impl PosteriorPart {
    /// The weights of `shapes` where the first of them is weight `start` of the block.
    ///
    /// # Errors
    /// If the block ends before them.
    pub fn new(precision: Box<dyn Precision>, start: usize, shapes: Vec<DenseShape>) -> Result<Self, PosteriorError> {
        let end = start + shapes.iter().map(DenseShape::n_weights).sum::<usize>();
        let info = precision.info();
        if end as u64 > info.n_weights {
            return Err(PosteriorError::NoWeight {
                block: info.layers.join("+"),
                index: end - 1,
                n_weights: info.n_weights,
            });
        }
        Ok(Self {
            precision,
            shapes,
            range: start..end,
        })
    }

    /// Number of weights, biases included.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.range.len()
    }

    /// Names and sizes of its layers, in its order.
    #[must_use]
    pub fn shapes(&self) -> &[DenseShape] {
        &self.shapes
    }

    /// What is known of the whole block.
    #[must_use]
    pub fn block(&self) -> &BlockInfo {
        self.precision.info()
    }

    /// Elements of `P^-1`, `[rows, cols]`; weights are counted from the part's first.
    ///
    /// # Errors
    /// If the part has no such weight.
    pub fn elements(&self, rows: &[usize], cols: &[usize]) -> Result<Matrix, PosteriorError> {
        let in_block = |weights: &[usize]| -> Result<Vec<usize>, PosteriorError> {
            let one = |&weight: &usize| match weight < self.n_weights() {
                true => Ok(self.range.start + weight),
                false => Err(PosteriorError::NoWeight {
                    block: self.name(),
                    index: weight,
                    n_weights: self.n_weights() as u64,
                }),
            };
            weights.iter().map(one).collect()
        };
        self.precision.elements(&in_block(rows)?, &in_block(cols)?)
    }

    /// The diagonal of `P^-1`: the variance of every weight.
    ///
    /// # Errors
    /// As [`Precision::marginal_variance`].
    pub fn diagonal(&self) -> Result<Vec<f64>, PosteriorError> {
        let all = self.precision.marginal_variance()?;
        let values = all.into_iter().flat_map(|layer| layer.values);
        Ok(values.skip(self.range.start).take(self.n_weights()).collect())
    }

    /// `P^-1 v`; `v`: one value a weight of the part.
    ///
    /// # Errors
    /// If `v` is of another length.
    pub fn solve(&self, v: &[f64]) -> Result<Vec<f64>, PosteriorError> {
        let solved = self.precision.solve(&self.in_block(v)?)?;
        if solved.len() == v.len() {
            return Ok(solved);
        }
        Ok(solved[self.range.clone()].to_vec())
    }

    /// `v^T P^-1 v`: the variance of `v . theta`.
    ///
    /// # Errors
    /// If `v` is of another length.
    pub fn quadratic(&self, v: &[f64]) -> Result<f64, PosteriorError> {
        self.precision.quadratic(&self.in_block(v)?)
    }

    /// A vector over these weights as one over those of the block, 0 for all others.
    fn in_block<'v>(&self, v: &'v [f64]) -> Result<Cow<'v, [f64]>, PosteriorError> {
        if v.len() != self.n_weights() {
            return Err(PosteriorError::Shape {
                what: format!("the vector to multiply the inverse of {} by", self.name()),
                expected: vec![self.n_weights()],
                found: vec![v.len()],
            });
        }
        let n_block = self.precision.info().n_weights as usize;
        if n_block == v.len() {
            return Ok(v.into());
        }
        let mut padded = vec![0.0; n_block];
        padded[self.range.clone()].copy_from_slice(v);
        Ok(padded.into())
    }

    fn name(&self) -> String {
        let names: Vec<&str> = self.shapes.iter().map(|shape| shape.name.as_str()).collect();
        names.join("+")
    }
}
