//! What a release knows of a catalogue's objects: a version that was looked into once need not be opened again.

use std::collections::HashMap;

use arrow_schema::Schema;
use fisherflow_spectra::{CatalogueColumns, ObjectVersion, Shard};
use serde::{Deserialize, Serialize};

use crate::Commit;
use crate::catalogue::schema::type_name;

/// What all objects of a catalogue agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueFacts {
    /// Which column is what.
    pub columns: CatalogueColumns,
    /// Pixels of a spectrum.
    pub n_pixels: usize,
    /// Types of the identifier and of the kept columns.
    pub types: Vec<String>,
}

impl CatalogueFacts {
    /// Name and type of the column of identifiers: identifiers of another column say nothing of these.
    #[must_use]
    pub fn id_column(&self) -> String {
        format!("{} {}", self.columns.id, self.types.first().map_or("", String::as_str))
    }
}

/// The objects of a release, by version.
#[derive(Clone, Debug)]
pub struct KnownCatalogue<'c> {
    facts: &'c CatalogueFacts,
    /// Row groups that hold rows, in order: position in the object, rows.
    objects: HashMap<&'c ObjectVersion, Vec<(usize, u64)>>,
}

impl<'c> KnownCatalogue<'c> {
    /// The objects of a commit whose versions the store tells apart.
    #[must_use]
    pub fn of(commit: &'c Commit) -> Self {
        let mut objects: HashMap<&ObjectVersion, Vec<(usize, u64)>> = HashMap::new();
        for group in &commit.groups {
            for &(object, row_group, rows) in &group.shards {
                if let Some(object) = commit.objects.get(object).filter(|object| object.etag.is_some()) {
                    objects.entry(object).or_default().push((row_group, rows));
                }
            }
        }
        Self {
            facts: &commit.catalogue,
            objects,
        }
    }

    /// What its objects agreed on, if they were read by these columns.
    pub(crate) fn facts_for(&self, columns: &CatalogueColumns) -> Option<&CatalogueFacts> {
        (self.facts.columns == *columns).then_some(self.facts)
    }

    /// The row groups of an object that is as it was.
    pub(crate) fn shards(&self, object: &ObjectVersion) -> Option<Vec<Shard>> {
        let mut first_row = 0;
        let mut shards = Vec::new();
        for &(row_group, n_rows) in self.objects.get(object)? {
            shards.push(Shard {
                object: object.clone(),
                row_group,
                n_rows,
                first_row,
            });
            first_row += n_rows;
        }
        Some(shards)
    }
}

/// The types of columns in words.
pub(crate) fn types_of(schema: &Schema) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| type_name(field.data_type()))
        .collect()
}
