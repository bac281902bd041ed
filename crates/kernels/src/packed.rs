//! A right operand packed once, for many products.

use faer::MatRef;

use crate::blocks::inner_block;
use crate::element::Element;
use crate::i16::{over_units_of_columns, units_of_columns};
use crate::lent::borrow;
use crate::path::Path;
use crate::products::Products;
use crate::strips::{Operand, Strips};
use crate::workspace::Buffer;

/// A matrix `[rows, cols]` in the order in which a product reads its right operand. As large as the matrix, its columns rounded up;
/// half as large where its numbers are packed in 16 bits (one bf16, or whole numbers).
#[derive(Debug)]
pub struct Packed<T> {
    rows: usize,
    cols: usize,
    /// Columns with those that fill the last strip.
    padded: usize,
    path: Path,
    /// The unit of each column, on a path of whole numbers.
    units: Option<Vec<f32>>,
    values: Buffer<T>,
}

impl<T: Element> Packed<T> {
    /// Packs a matrix for products on a path.
    ///
    /// # Panics
    /// If the machine has not got the path.
    #[must_use]
    pub fn new(matrix: MatRef<'_, T>, products: impl Into<Products>) -> Self {
        let Products { path, threads } = products.into();
        assert!(path.is_available(), "this machine has no {path} instructions");
        let (tile, borrowed) = (T::tile(path), borrow(threads));
        let (rows, cols) = matrix.shape();
        let padded = cols.next_multiple_of(tile.cols);
        let mut values = Buffer::default();
        values.resize(tile.strip(padded, rows), T::ZERO);
        let mut rest = values.as_mut_slice();
        let units = tile.whole.then(|| units_of_columns(matrix));
        for from in (0..rows).step_by(inner_block::<T>()) {
            let inner = inner_block::<T>().min(rows - from);
            let (block, after) = rest.split_at_mut(tile.strip(padded, inner));
            rest = after;
            let part = matrix.subrows(from, inner);
            let whole = units.as_ref().map(|units| over_units_of_columns(part, units));
            let part = whole
                .as_ref()
                .map_or(part, |whole| MatRef::from_row_major_slice(whole, inner, cols));
            let columns = Strips {
                operand: Operand::new(part.transpose()),
                first: 0,
                width: tile.cols,
                from: 0,
                inner,
            };
            columns.pack(&tile, tile.pack_rhs, block, borrowed.threads);
        }
        Self {
            rows,
            cols,
            padded,
            path,
            units,
            values,
        }
    }

    /// Rows of the matrix.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What a step of a number is in each column, on [`Path::I16`]; NaN where one of its numbers is not finite.
    #[must_use]
    pub fn units(&self) -> Option<&[f32]> {
        self.units.as_deref()
    }

    pub(crate) fn path(&self) -> Path {
        self.path
    }

    /// All strips of a block of rows.
    pub(crate) fn block(&self, from: usize, inner: usize) -> &[T] {
        let tile = T::tile(self.path);
        &self.values.as_slice()[tile.strip(self.padded, from)..][..tile.strip(self.padded, inner)]
    }
}
