//! `posterior/blocks.parquet`: a row a block.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, RecordBatch};

use crate::tables::columns::{counts, numbers_or_null, texts};
use crate::tables::parquet_out::{FileMetadata, WrittenFile};
use crate::tables::table::Table;
use crate::{Cause, Output, StoreError};

/// Where the blocks are, in an output.
const BLOCKS: &str = "posterior/blocks.parquet";

/// One block of the Hessian. What is NaN is written as null.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockRow {
    /// Its layers, joined by `+`.
    pub layer: String,
    /// `full`, `block`, `kfac`, `diagonal`, ...
    pub structure: String,
    /// Its weights.
    pub n_weights: u64,
    /// Spectra summed over.
    pub n_spectra: u64,
    /// Terms of a Kronecker block's sums, which divide the product of its factors; of every other block the spectra.
    pub n_terms: u64,
    /// Of every weight, in normalised units, on the scale of the sum over spectra.
    pub prior_precision: f64,
    /// Log determinant of the posterior precision.
    pub log_det: f64,
    /// `sum lambda / (lambda + delta)`.
    pub effective_parameters: f64,
    /// Largest eigenvalue over smallest.
    pub condition: f64,
    /// Eigenvalues below zero that were set to zero.
    pub clipped_eigenvalues: u64,
    /// What was added to the diagonal to make it factorise.
    pub jitter: f64,
    /// Its standard deviations over the exact ones of the same weights on a subset: the median over stars and labels.
    pub sigma_ratio: f64,
    /// The same: 5 % are smaller.
    pub sigma_ratio_p05: f64,
    /// The same: 5 % are larger.
    pub sigma_ratio_p95: f64,
    /// Largest relative error of a probed variance from arithmetic.
    pub answer_error: f64,
    /// Norm of the gradient of the loss with the prior, normalised label units.
    pub gradient_norm: f64,
    /// `sqrt(g^T P^-1 g)`: posterior standard deviations to the minimum.
    pub newton_decrement: f64,
    /// What follows, in words; empty where there is nothing to say.
    pub verdict: String,
}

impl Output {
    /// Writes `posterior/blocks.parquet`.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_blocks(&self, rows: &[BlockRow], metadata: &FileMetadata) -> Result<WrittenFile, StoreError> {
        let text = |name: &str, value: fn(&BlockRow) -> &str| texts(name, rows.iter().map(value));
        let count = |name: &str, value: fn(&BlockRow) -> u64| counts(name, rows.iter().map(value));
        let number = |name: &str, value: fn(&BlockRow) -> f64| {
            let values = rows.iter().map(value);
            numbers_or_null(name, values.map(|v| (!v.is_nan()).then_some(v)))
        };
        let columns = vec![
            text("layer", |row| &row.layer),
            text("structure", |row| &row.structure),
            count("n_weights", |row| row.n_weights),
            count("n_spectra", |row| row.n_spectra),
            count("n_terms", |row| row.n_terms),
            number("prior_precision", |row| row.prior_precision),
            number("log_det", |row| row.log_det),
            number("effective_parameters", |row| row.effective_parameters),
            number("condition", |row| row.condition),
            count("clipped_eigenvalues", |row| row.clipped_eigenvalues),
            number("jitter", |row| row.jitter),
            number("sigma_ratio", |row| row.sigma_ratio),
            number("sigma_ratio_p05", |row| row.sigma_ratio_p05),
            number("sigma_ratio_p95", |row| row.sigma_ratio_p95),
            number("answer_error", |row| row.answer_error),
            number("gradient_norm", |row| row.gradient_norm),
            number("newton_decrement", |row| row.newton_decrement),
            text("verdict", |row| &row.verdict),
        ];
        self.write_columns(BLOCKS, columns, metadata)
    }

    /// Reads `posterior/blocks.parquet`.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn read_blocks(&self) -> Result<Vec<BlockRow>, StoreError> {
        let uri = self.child(BLOCKS);
        let mut rows = Vec::new();
        for batch in Table::open(self.stores(), &uri)?.batches(None, 1024)? {
            append_rows(&uri, &batch?, &mut rows)?;
        }
        Ok(rows)
    }
}

fn append_rows(uri: &str, batch: &RecordBatch, rows: &mut Vec<BlockRow>) -> Result<(), StoreError> {
    let unlike = |column: &str| StoreError::BadDocument {
        uri: uri.to_owned(),
        source: Cause::said(format!("column {column} is missing or of another type")),
    };
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| unlike(name));
    for row in 0..batch.num_rows() {
        let text = |name: &str| {
            let array = column(name)?.as_string_opt::<i32>().ok_or_else(|| unlike(name))?;
            Ok::<_, StoreError>(array.value(row).to_owned())
        };
        let count = |name: &str| {
            let array = column(name)?
                .as_primitive_opt::<Int64Type>()
                .ok_or_else(|| unlike(name))?;
            Ok::<_, StoreError>(array.value(row).unsigned_abs())
        };
        let number = |name: &str| {
            let array = column(name)?
                .as_primitive_opt::<Float64Type>()
                .ok_or_else(|| unlike(name))?;
            Ok::<_, StoreError>(if array.is_null(row) { f64::NAN } else { array.value(row) })
        };
        rows.push(BlockRow {
            layer: text("layer")?,
            structure: text("structure")?,
            n_weights: count("n_weights")?,
            n_spectra: count("n_spectra")?,
            // Files before schema 5 have none.
            n_terms: count("n_terms").or_else(|_| count("n_spectra"))?,
            prior_precision: number("prior_precision")?,
            log_det: number("log_det")?,
            effective_parameters: number("effective_parameters")?,
            condition: number("condition")?,
            clipped_eigenvalues: count("clipped_eigenvalues")?,
            jitter: number("jitter")?,
            sigma_ratio: number("sigma_ratio")?,
            sigma_ratio_p05: number("sigma_ratio_p05")?,
            sigma_ratio_p95: number("sigma_ratio_p95")?,
            answer_error: number("answer_error")?,
            gradient_norm: number("gradient_norm")?,
            newton_decrement: number("newton_decrement")?,
            verdict: text("verdict")?,
        });
    }
    Ok(())
}
