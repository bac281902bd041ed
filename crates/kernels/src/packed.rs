//! A right operand packed once, for many products.

use faer::MatRef;

use crate::blocks::inner_block;
use crate::element::Element;
use crate::lent::borrow;
use crate::path::Path;
use crate::products::Products;
use crate::strips::{Operand, Strips};
use crate::workspace::Buffer;

/// A matrix `[rows, cols]` in the order in which a product reads its right operand. As large as the matrix, its columns rounded up.
#[derive(Debug)]
pub struct Packed<T> {
    rows: usize,
    cols: usize,
    /// Columns with those that fill the last strip.
    padded: usize,
    path: Path,
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
        for from in (0..rows).step_by(inner_block::<T>()) {
            let inner = inner_block::<T>().min(rows - from);
            let (block, after) = rest.split_at_mut(tile.strip(padded, inner));
            rest = after;
            let columns = Strips {
                operand: Operand::new(matrix.transpose()),
                first: 0,
                width: tile.cols,
                from,
                inner,
            };
            columns.pack(&tile, tile.pack_rhs, block, borrowed.threads);
        }
        Self {
            rows,
            cols,
            padded,
            path,
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

    pub(crate) fn path(&self) -> Path {
        self.path
    }

    /// All strips of a block of rows.
    pub(crate) fn block(&self, from: usize, inner: usize) -> &[T] {
        let tile = T::tile(self.path);
        &self.values.as_slice()[tile.strip(self.padded, from)..][..tile.strip(self.padded, inner)]
    }
}
