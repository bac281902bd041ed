//! `[predict]`: whose error bars, and what is written with them.

use fisherflow_dataflow::CatalogueSource;
use fisherflow_spectra::FluxError;

use super::catalogue::{CatalogueKeys, refuse_named_twice};
use super::error::RunFileError;
use super::table::Table;

/// Keys of `[predict]` beyond those of `[catalogue]`.
pub const OWN_KEYS: &[&str] = &["jacobians", "keep_columns"];

/// `[predict]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PredictTable {
    /// The catalogue; `None` where it is the one of the fit.
    pub catalogue: Option<CatalogueSource>,
    /// Whether `jacobians/` is written.
    pub jacobians: bool,
    /// Columns that pass through to the predictions.
    pub keep_columns: Vec<String>,
}

impl PredictTable {
    /// Reads the table; what it does not say of a catalogue is as in `fit`, and a table that says nothing of one, or the same by its
    /// defaults, means the fit's own, `catalogue`.
    ///
    /// # Errors
    /// Wrong values.
    pub fn read(table: &Table<'_>, fit: &CatalogueKeys, catalogue: &CatalogueSource) -> Result<Self, RunFileError> {
        let jacobians = match table.get("jacobians") {
            Some(e) => e.boolean()?,
            None => false,
        };
        let keep_columns = match table.get("keep_columns") {
            Some(e) => e.distinct_strings()?,
            None => Vec::new(),
        };
        let said = CatalogueKeys::read(table)?;
        // Without a column of errors `false` says nothing, and that of the fit would be taken over.
        if said.error.is_none()
            && fit.error == Some(FluxError::Exact)
            && let Some(entry) = table.get("exact_inputs")
        {
            return Err(entry.invalid(
                "is false, and [catalogue] has no errors to take over: add sigma = \"<column>\" or ivar = \"<column>\", or leave it out",
            ));
        }
        let whole = said.clone().or_columns_of(fit);
        let truth = CatalogueKeys {
            labels: said.labels.or(fit.labels.clone()),
            label_errors: said.label_errors.or(fit.label_errors.clone()),
            holdout_group: said.holdout_group.or(fit.holdout_group.clone()),
            ..whole.clone()
        };
        let catalogue = if truth.complete(table, Vec::new())? == *catalogue {
            None
        } else {
            let catalogue = whole.complete(table, keep_columns.clone())?;
            refuse_named_twice(&catalogue.columns, table)?;
            Some(catalogue)
        };
        Ok(Self {
            catalogue,
            jacobians,
            keep_columns,
        })
    }
}
