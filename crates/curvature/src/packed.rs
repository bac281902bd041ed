//! Symmetric matrices as their packed lower triangle, row after row: `(i, j)`, `j <= i`, at `i (i + 1) / 2 + j`.
//!
//! Row after row, so that the rows of a panel lie together and panels can be handed to threads.

/// Number of values in the lower triangle of an `[n, n]` matrix; saturates where no memory could hold them.
pub(crate) const fn packed_len(n: usize) -> usize {
    n.saturating_mul(n.saturating_add(1)) / 2
}

/// The row that the value at `index` lies in.
pub(crate) fn row_of(index: usize) -> usize {
    let guess = ((8 * index + 1).isqrt() - 1) / 2;
    if packed_len(guess) > index { guess - 1 } else { guess }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_lies_in_its_row() {
        for i in 0..200 {
            for j in 0..=i {
                assert_eq!(row_of(packed_len(i) + j), i);
            }
        }
    }
}
