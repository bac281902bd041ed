//! Which spectra of the catalogue to predict are asked for: by identifier, by file and row, or by both.
//!
//! A star may have several spectra (visits). One is taken where one is meant, and nothing is chosen where it is not said which.

use std::sync::Arc;

use arrow_cast::display::{ArrayFormatter, FormatOptions};
use fisherflow_spectra::{Group, Shard, SpectrumBatch};

use crate::context::Context;
use crate::error::RunError;
use crate::files::row_keys;
use crate::progress::repeated;

/// Spectra that an error names, at most.
const NAMED: usize = 10;

/// Spectra of the catalogue to predict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Identifiers, as text; none: whatever they are.
    pub ids: Vec<String>,
    /// The name of their file below the catalogue's folder; none: any.
    pub file: Option<String>,
    /// Their positions in it; none: any.
    pub rows: Vec<u64>,
    /// Of how many spectra an identifier may be that stands for itself.
    pub visits: Visits,
}

/// How many spectra an identifier stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visits {
    /// One; where it has several, they are named and none is taken.
    #[default]
    One,
    /// All that it has.
    All,
}

/// A spectrum that was asked for.
pub(super) struct Chosen {
    pub(super) id: String,
    pub(super) file: String,
    pub(super) row: u64,
    /// This spectrum alone.
    pub(super) spectrum: SpectrumBatch,
}

impl Chosen {
    /// In words, as the tables name it.
    pub(super) fn place(&self) -> String {
        format!("star \"{}\", file {}, row {}", self.id, self.file, self.row)
    }
}

impl Choice {
    /// The spectra, those of the first identifier first, each identifier's in the catalogue's order.
    ///
    /// # Errors
    /// One is not there, or it is not said which of several is meant.
    pub(super) fn spectra(&self, context: &Arc<Context>) -> Result<Vec<Chosen>, RunError> {
        let mut found = self.search(context)?;
        self.check(&found, context.predicted_uri(), &file_names(context))?;
        found.sort_by_key(|chosen| self.ids.iter().position(|id| *id == chosen.id));
        Ok(found)
    }

    /// All spectra that are asked for, in the catalogue's order.
    fn search(&self, context: &Arc<Context>) -> Result<Vec<Chosen>, RunError> {
        let predicted = context.predicted();
        let groups: Vec<Group> = predicted
            .groups
            .iter()
            .map(|group| Group {
                index: group.index,
                shards: group
                    .shards
                    .iter()
                    .filter(|shard| self.may_be_in(context, shard))
                    .cloned()
                    .collect(),
            })
            .filter(|group| !group.shards.is_empty())
            .collect();
        let mut found = Vec::new();
        let _shown = repeated::shown(&context.progress)?;
        let spectra = groups.iter().map(Group::n_rows).sum();
        context
            .progress
            .begin_over_spectra("stars", spectra, groups.len() as u64);
        for group in &groups {
            for batch in context.read(&predicted.catalogue, group) {
                let batch = batch?;
                context.progress.advance(batch.n_rows() as u64);
                let keys = row_keys(context, &batch);
                let format = FormatOptions::default();
                let ids = ArrayFormatter::try_new(batch.rows.column(0), &format)
                    .map_err(|error| RunError::Internal(error.to_string()))?;
                for (at, row) in (0..batch.n_rows()).zip(keys.first_row..) {
                    if !self.rows.is_empty() && !self.rows.contains(&row) {
                        continue;
                    }
                    let id = ids.value(at).to_string();
                    if self.ids.is_empty() || self.ids.contains(&id) {
                        found.push(Chosen {
                            id,
                            file: keys.file.to_owned(),
                            row,
                            spectrum: batch.select(&[at])?,
                        });
                    }
                }
            }
        }
        context.progress.end();
        Ok(found)
    }

    /// Whether a row group may hold one of them, by what is known of it unread.
    fn may_be_in(&self, context: &Context, shard: &Shard) -> bool {
        let name = shard.object.name_below(context.predicted().catalogue.folder());
        let rows = shard.first_row..shard.first_row + shard.n_rows;
        self.file.as_deref().is_none_or(|file| file == name)
            && (self.rows.is_empty() || self.rows.iter().any(|row| rows.contains(row)))
    }

    /// Looks whether all are there that are asked for, and no more of any; `files`: those of the catalogue.
    fn check(&self, found: &[Chosen], uri: &str, files: &[&str]) -> Result<(), RunError> {
        if let Some(file) = self.file.as_deref().filter(|file| !files.contains(file)) {
            return Err(RunError::Refused(format!(
                "{uri} has no file \"{file}\"; it has {}",
                some_of(files.iter().map(|name| (*name).to_owned()))
            )));
        }
        let file = self
            .file
            .as_ref()
            .map_or_else(String::new, |file| format!(" in its file {file}"));
        for id in &self.ids {
            let of_id: Vec<&Chosen> = found.iter().filter(|chosen| chosen.id == *id).collect();
            match of_id.len() {
                0 => {
                    let rows: Vec<String> = self.rows.iter().map(u64::to_string).collect();
                    let row = match rows.is_empty() {
                        true => String::new(),
                        false => format!(" at row {}", rows.join(" or ")),
                    };
                    return Err(RunError::Refused(format!("{uri} holds no star \"{id}\"{file}{row}")));
                }
                2.. if self.rows.is_empty() && self.visits == Visits::One => {
                    return Err(RunError::Usage(format!(
                        "{} spectra of {uri}{file} have the id \"{id}\": {}. Say which one with --file and --row, or take all of them with \
                         --all-visits",
                        of_id.len(),
                        places(&of_id)
                    )));
                }
                _ => {}
            }
        }
        for row in &self.rows {
            let at_row: Vec<&Chosen> = found.iter().filter(|chosen| chosen.row == *row).collect();
            match at_row.len() {
                0 => {
                    let of = match self.ids.is_empty() {
                        true => String::new(),
                        false => format!(" that is of {}", self.ids.join(" or ")),
                    };
                    return Err(RunError::Refused(format!(
                        "{uri} has no row {row}{file}{of}: rows count from 0 in each file"
                    )));
                }
                2.. => {
                    return Err(RunError::Usage(format!(
                        "{} files of {uri} have a row {row} that is asked for: {}. Say which one with --file",
                        at_row.len(),
                        places(&at_row)
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The files of the catalogue to predict that have rows, by name.
fn file_names(context: &Context) -> Vec<&str> {
    let catalogue = &context.predicted().catalogue;
    let mut names: Vec<&str> = catalogue
        .shards()
        .iter()
        .map(|shard| shard.object.name_below(catalogue.folder()))
        .collect();
    names.dedup();
    names
}

fn places(chosen: &[&Chosen]) -> String {
    some_of(
        chosen
            .iter()
            .map(|chosen| format!("file {} row {}", chosen.file, chosen.row)),
    )
}

/// The first of them, and how many more there are.
fn some_of(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first = names.take(NAMED).collect::<Vec<_>>().join(", ");
    match more {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
