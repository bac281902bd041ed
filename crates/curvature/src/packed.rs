//! Symmetric matrices as their packed lower triangle, row after row: `(i, j)`, `j <= i`, at `i (i + 1) / 2 + j`.
//!
//! Row after row, so that the rows of a panel lie together and panels can be handed to threads.

use crate::Matrix;

/// Number of values in the lower triangle of an `[n, n]` matrix; saturates where no memory could hold them.
pub(crate) const fn packed_len(n: usize) -> usize {
    n.saturating_mul(n.saturating_add(1)) / 2
}

/// The row that the value at `index` lies in.
pub(crate) fn row_of(index: usize) -> usize {
    let guess = ((8 * index + 1).isqrt() - 1) / 2;
    if packed_len(guess) > index { guess - 1 } else { guess }
}

/// The full symmetric `[n, n]` matrix whose `(i, j)`, `j <= i`, is `value(i, j, packed value)`.
pub(crate) fn unpack(packed: &[f64], n: usize, value: impl Fn(usize, usize, f64) -> f64) -> Matrix {
    let mut values = vec![0.0; n * n];
    let mut rest = packed;
    for i in 0..n {
        let (row, after) = rest.split_at(i + 1);
        rest = after;
        for (j, (to, &from)) in values[i * n..=i * n + i].iter_mut().zip(row).enumerate() {
            *to = value(i, j, from);
        }
    }
    mirror(&mut values, n);
    Matrix {
        rows: n,
        cols: n,
        values,
    }
}

/// Copies the lower triangle of a row-major `[n, n]` matrix to its upper one, tile by tile.
pub(crate) fn mirror(values: &mut [f64], n: usize) {
    const TILE: usize = 32;
    for rows in (0..n).step_by(TILE) {
        for cols in (0..=rows).step_by(TILE) {
            for i in rows..n.min(rows + TILE) {
                for j in cols..i.min(cols + TILE) {
                    values[j * n + i] = values[i * n + j];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking_mirrors_the_lower_triangle() {
        let n = 70;
        let packed: Vec<f64> = (0..packed_len(n)).map(|i| i as f64).collect();
        let full = unpack(&packed, n, |_, _, x| x);
        for i in 0..n {
            for j in 0..=i {
                assert_eq!(full.values[i * n + j], packed[packed_len(i) + j]);
                assert_eq!(full.values[j * n + i], packed[packed_len(i) + j]);
                assert_eq!(row_of(packed_len(i) + j), i);
            }
        }
        assert_eq!(unpack(&[], 0, |_, _, x| x).values, Vec::<f64>::new());
    }
}
