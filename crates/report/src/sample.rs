//! Which rows are kept where there are more than memory allows: every row, then half of them, a quarter, ...
//!
//! A row is kept by a hash of its number: catalogues repeat themselves every few rows, so that every second one may be of a kind. The rule depends on
//! nothing but the number, so the same table gives the same sample.

/// Some rows of a table, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// `[rows, width]`.
    values: Vec<f64>,
    /// `[rows]`: hashes of their numbers.
    hashes: Vec<u64>,
    width: usize,
    capacity: usize,
    /// A row is kept whose hash ends in so many zeros.
    zeros: u32,
    offered: u64,
}

impl Sample {
    /// An empty sample of rows of `width` numbers, at most `capacity` of them.
    pub fn new(width: usize, capacity: usize) -> Self {
        Self {
            values: Vec::new(),
            hashes: Vec::new(),
            width: width.max(1),
            capacity: capacity.max(1),
            zeros: 0,
            offered: 0,
        }
    }

    /// The next row: `[width]`.
    pub fn offer(&mut self, row: &[f64]) {
        debug_assert_eq!(row.len(), self.width);
        let hash = mixed(self.offered);
        self.offered += 1;
        while hash.trailing_zeros() >= self.zeros {
            if self.len() < self.capacity {
                self.hashes.push(hash);
                self.values.extend_from_slice(row);
                return;
            }
            self.thin();
        }
    }

    fn thin(&mut self) {
        self.zeros += 1;
        let mut kept = 0;
        for row in 0..self.len() {
            if self.hashes[row].trailing_zeros() >= self.zeros {
                let from = row * self.width;
                self.values.copy_within(from..from + self.width, kept * self.width);
                self.hashes[kept] = self.hashes[row];
                kept += 1;
            }
        }
        self.values.truncate(kept * self.width);
        self.hashes.truncate(kept);
    }

    /// Rows kept.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Of how many rows one is kept, on average; 1: all are.
    pub fn one_in(&self) -> u64 {
        1 << self.zeros.min(63)
    }

    /// One number of every row.
    pub fn column(&self, column: usize) -> impl Iterator<Item = f64> + '_ {
        self.values.chunks_exact(self.width).map(move |row| row[column])
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): of whatever pattern in `number` no bit of it shows one.
fn mixed(number: u64) -> u64 {
    let x = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_by_their_number_alone() {
        for n in [0_u64, 1, 3, 8, 9, 16, 17, 100, 1000] {
            let mut sample = Sample::new(2, 8);
            for row in 0..n {
                sample.offer(&[row as f64, -(row as f64)]);
            }
            let is_kept = |row: &u64| mixed(*row).is_multiple_of(sample.one_in());
            let expected: Vec<f64> = (0..n).filter(is_kept).map(|row| row as f64).collect();
            assert_eq!(sample.column(0).collect::<Vec<_>>(), expected, "{n} rows");
            assert!(sample.column(1).all(|value| value <= 0.0));
            assert!(sample.len() <= 8 && (n > 8 || sample.len() as u64 == n), "{n} rows");
        }
    }

    /// Two visits to each star, or two exposures: what every second, fourth, ... row is like is no more than its share of the sample.
    #[test]
    fn rows_that_alternate_are_kept_alike() {
        for period in [2_u64, 4, 8] {
            let mut sample = Sample::new(1, 4096);
            (0..100_000).for_each(|row| sample.offer(&[(row % period) as f64]));
            assert!(sample.one_in() >= 32, "{}", sample.one_in());
            let (n, share) = (sample.len() as f64, 1.0 / period as f64);
            let first = sample.column(0).filter(|kind| *kind == 0.0).count() as f64;
            // Five standard deviations of a binomial count.
            let deviation = (n * share * (1.0 - share)).sqrt();
            assert!((first - n * share).abs() < 5.0 * deviation, "{period}: {first} of {n}");
        }
    }
}
