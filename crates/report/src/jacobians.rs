//! How the labels answer to each pixel: the spread of `J_x` over the first rows of the Jacobians.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use fisherflow_store::{Stores, Table};

use crate::ReportError;
use crate::predictions::{column, unlike};
use crate::quantiles::{Spread, spread};

/// Spectra looked at, at most.
const SPECTRA: u64 = 2000;
/// Derivatives kept, at most: 64 MiB.
const VALUES: usize = 16 << 20;
/// Derivatives read at a time, about.
const BATCH_VALUES: usize = 1 << 20;

/// The spread of the Jacobians.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Jacobians {
    /// All rows, a row a (spectrum, label).
    pub rows: u64,
    /// Rows looked at.
    pub looked_at: u64,
    /// Of each label: of each pixel, label unit per flux unit; empty where no row has a Jacobian.
    pub labels: Vec<Vec<Spread>>,
}

impl Jacobians {
    /// Reads the first rows.
    pub fn read(stores: &Stores, uri: &str, labels: &[String]) -> Result<Self, ReportError> {
        let table = Table::open(stores, uri)?;
        let n_pixels: usize = table
            .metadata()
            .0
            .get("fisherflow.n_pixels")
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| unlike(uri, "jacobian", "of a number of pixels that the metadata names"))?;
        let most = rows_looked_at(labels.len()).min((VALUES / n_pixels.max(1)) as u64);
        // As many rows of each label.
        let most = most - most % labels.len().max(1) as u64;
        let mut kept: Vec<Vec<f32>> = vec![Vec::new(); labels.len()];
        let mut looked_at = 0;
        let batch_rows = (BATCH_VALUES / n_pixels.max(1)).max(labels.len());
        for batch in table.batches(Some(&["label", "jacobian"]), batch_rows)? {
            if looked_at == most {
                break;
            }
            let batch = batch?;
            let names = column(uri, &batch, "label", "text", |c| c.as_string_opt::<i32>())?;
            let expected = format!("lists of {n_pixels} floats");
            let lists = column(uri, &batch, "jacobian", &expected, |c| c.as_list_opt::<i32>())?;
            for row in 0..batch.num_rows() {
                if looked_at == most {
                    break;
                }
                looked_at += 1;
                let label = labels.iter().position(|label| label == names.value(row));
                let label = label.ok_or_else(|| unlike(uri, "label", "names of labels alone"))?;
                if lists.is_null(row) {
                    continue;
                }
                let list = lists.value(row);
                match list.as_primitive_opt::<Float32Type>() {
                    Some(values) if values.len() == n_pixels => {
                        kept[label].extend_from_slice(values.values());
                    }
                    _ => return Err(unlike(uri, "jacobian", &expected)),
                }
            }
        }
        Ok(Self {
            rows: table.n_rows(),
            looked_at,
            labels: kept.iter().map(|rows| spreads(rows, n_pixels)).collect(),
        })
    }
}

/// Rows of the Jacobians that are looked at, at most.
pub(crate) fn rows_looked_at(n_labels: usize) -> u64 {
    SPECTRA * n_labels as u64
}

/// The spread at each pixel of rows `[n, D]`.
fn spreads(rows: &[f32], n_pixels: usize) -> Vec<Spread> {
    (0..n_pixels)
        .map_while(|pixel| {
            let values = rows.iter().skip(pixel).step_by(n_pixels);
            spread(values.map(|&value| f64::from(value)))
        })
        .collect()
}

/// At most `columns` points `(first pixel, last pixel, spread)`: of neighbouring pixels that share one, the median farthest from zero, and
/// the band that holds all of their bands, so that no line of the spectrum is lost.
pub(crate) fn thinned(pixels: &[Spread], columns: usize) -> Vec<(usize, usize, Spread)> {
    let width = pixels.len().div_ceil(columns.max(1)).max(1);
    pixels
        .chunks(width)
        .enumerate()
        .map(|(at, pixels)| {
            let first = at * width;
            let joined = pixels.iter().skip(1).fold(pixels[0], |all, one| Spread {
                low: all.low.min(one.low),
                median: if one.median.abs() > all.median.abs() {
                    one.median
                } else {
                    all.median
                },
                high: all.high.max(one.high),
            });
            (first, first + pixels.len() - 1, joined)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_each_pixel() {
        let rows: Vec<f32> = (0..101).flat_map(|i| [i as f32, -2.0 * i as f32]).collect();
        let found = spreads(&rows, 2);
        assert_eq!((found[0].low, found[0].median, found[0].high), (16.0, 50.0, 84.0));
        assert_eq!((found[1].low, found[1].median, found[1].high), (-168.0, -100.0, -32.0));
        assert!(spreads(&[], 2).is_empty());
    }

    #[test]
    fn no_line_is_lost() {
        let mut pixels = vec![Spread::default(); 1000];
        pixels[437] = Spread {
            low: -9.0,
            median: -5.0,
            high: 1.0,
        };
        let points = thinned(&pixels, 100);
        assert_eq!(points.len(), 100);
        assert_eq!(points[43], (430, 439, pixels[437]));
        assert_eq!(thinned(&pixels, 2000).len(), 1000);
    }
}
