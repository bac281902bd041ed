//! Which rows are kept where there are more than memory allows: every row, then every second, every fourth, ...
//!
//! The rule depends on nothing but the order of the rows, so the same table gives the same sample.

/// Every `stride`-th row of a table, the first included.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// `[rows, width]`.
    values: Vec<f64>,
    width: usize,
    capacity: usize,
    stride: u64,
    offered: u64,
}

impl Sample {
    /// An empty sample of rows of `width` numbers, at most `capacity` (rounded up to an even number) of them.
    pub fn new(width: usize, capacity: usize) -> Self {
        Self {
            values: Vec::new(),
            width: width.max(1),
            // Even: the row after a full sample is then a multiple of twice the stride.
            capacity: capacity.max(2).next_multiple_of(2),
            stride: 1,
            offered: 0,
        }
    }

    /// The next row: `[width]`.
    pub fn offer(&mut self, row: &[f64]) {
        debug_assert_eq!(row.len(), self.width);
        if self.offered.is_multiple_of(self.stride) {
            if self.len() == self.capacity {
                self.thin();
            }
            if self.offered.is_multiple_of(self.stride) {
                self.values.extend_from_slice(row);
            }
        }
        self.offered += 1;
    }

    fn thin(&mut self) {
        let (width, kept) = (self.width, self.len() / 2);
        for row in 1..kept {
            let from = 2 * row * width;
            self.values.copy_within(from..from + width, row * width);
        }
        self.values.truncate(kept * width);
        self.stride *= 2;
    }

    /// Rows kept.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// 1: all rows are kept; 2: every second is; ...
    pub fn stride(&self) -> u64 {
        self.stride
    }

    /// One number of every row.
    pub fn column(&self, column: usize) -> impl Iterator<Item = f64> + '_ {
        self.values.chunks_exact(self.width).map(move |row| row[column])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stride_th_row_is_kept() {
        for n in [0_u64, 1, 3, 8, 9, 16, 17, 100, 1000] {
            let mut sample = Sample::new(2, 8);
            for row in 0..n {
                sample.offer(&[row as f64, -(row as f64)]);
            }
            let stride = sample.stride();
            let expected: Vec<f64> = (0..n).step_by(stride as usize).map(|row| row as f64).collect();
            assert_eq!(sample.column(0).collect::<Vec<_>>(), expected, "{n} rows");
            assert!(sample.column(1).all(|value| value <= 0.0));
            assert!(sample.len() <= 8);
            assert!(n <= 8 || sample.len() > 4, "{n} rows leave {}", sample.len());
        }
    }
}
