//! Rows that give nothing, by the flag that says why, with the first of each: what a reader needs to find them.

use std::collections::BTreeMap;
use std::fmt;

use arrow_cast::display::{ArrayFormatter, FormatOptions};
use fisherflow_spectra::{PixelFlux, RowFlags, SpectrumBatch};
use serde::{Deserialize, Serialize};

/// What a finished group says of its rows, and what they weigh: another number where it is otherwise. 2: their position in the object, not in the row group;
/// 3: the pixel for which they are out of range; 4: the smallest of their keys, which are looked up in the fit's catalogue; 5: derivatives by tanh and
/// gelu with all digits of f32; 6: those keys where the fit has no labels, too; flux is normalised before it is rounded to f32; how many weigh nothing
/// beside their own errors; 7: softplus, elu and leaky relu with all digits of f32.
pub(crate) const ROWS_VERSION: &str = "7";

/// Where a row of a catalogue is, and for which pixel it is out of range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RowPlace {
    id: String,
    /// Its position in the object, from 0: column `row` of predictions and Jacobians.
    row: u64,
    row_group: u64,
    object: String,
    /// Its position, from 0, and its flux.
    pixel: Option<(u64, f64)>,
}

/// Rows by the flags of each, in the catalogue's order; merged in that order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BadRows {
    /// By the flag's bit.
    by_flag: BTreeMap<u8, OfFlag>,
}

/// The rows with one flag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OfFlag {
    rows: u64,
    first: RowPlace,
}

impl RowPlace {
    /// Of a row of a batch of one shard.
    pub(crate) fn of(batch: &SpectrumBatch, row: usize) -> Self {
        Self {
            id: id_of(batch, row),
            row: batch.shard.first_row + batch.positions[row],
            row_group: batch.shard.row_group as u64,
            object: batch.shard.object.path.clone(),
            pixel: batch.out_of_range[row].map(|PixelFlux { pixel, flux }| (pixel as u64, flux)),
        }
    }
}

impl fmt::Display for RowPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            row,
            row_group,
            object,
            pixel,
        } = self;
        write!(f, "id {id}, row {row} of {object} (row group {row_group})")?;
        match pixel {
            Some((pixel, flux)) => write!(f, ", pixel {pixel}: {flux:.3e}"),
            None => Ok(()),
        }
    }
}

/// The identifier of a row.
pub(crate) fn id_of(batch: &SpectrumBatch, row: usize) -> String {
    let format = FormatOptions::default().with_null("null");
    ArrayFormatter::try_new(batch.rows.column(0), &format)
        .and_then(|ids| ids.value(row).try_to_string())
        .unwrap_or_else(|_| "?".to_owned())
}

impl BadRows {
    /// Adds a row of a batch of one shard, once for each of `flags` that `among` has.
    pub(crate) fn add(&mut self, batch: &SpectrumBatch, row: usize, flags: RowFlags, among: RowFlags) {
        for flag in RowFlags::DESCRIPTIONS {
            let bit = RowFlags::from_bits(1 << flag.bit);
            if flags.contains(bit) && among.contains(bit) {
                let of_flag = self.by_flag.entry(flag.bit).or_insert_with(|| OfFlag {
                    rows: 0,
                    first: RowPlace::of(batch, row),
                });
                of_flag.rows += 1;
            }
        }
    }

    /// Adds the rows that come after these.
    pub(crate) fn merge(&mut self, after: Self) {
        for (bit, of_flag) in after.by_flag {
            let rows = of_flag.rows;
            let merged = self.by_flag.entry(bit).or_insert(OfFlag { rows: 0, ..of_flag });
            merged.rows += rows;
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_flag.is_empty()
    }
}

/// `3 FLUX_NULL, the flux is null (the first: id 17, row 5 of part-1.parquet (row group 0)); 1 ...`.
impl fmt::Display for BadRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for flag in RowFlags::DESCRIPTIONS {
            if let Some(OfFlag { rows, first }) = self.by_flag.get(&flag.bit) {
                write!(
                    f,
                    "{before}{rows} {}, {} (the first: {first})",
                    flag.name, flag.description
                )?;
                before = "; ";
            }
        }
        Ok(())
    }
}
