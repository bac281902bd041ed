//! What a release knows of a catalogue's objects: a version that was looked into once need not be opened again.

use std::collections::HashMap;

use arrow_schema::{DataType, Schema};
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

    /// Whether an object can be one of these: each column has the type that it has here, or has none in one of the two and so can be of any.
    pub(crate) fn fit(&self, schema: &Schema) -> bool {
        let mut types = types_of(schema).into_iter().zip(&self.types);
        types.all(|(found, known)| found == *known || is_none(&found) || is_none(known))
    }

    /// Whether each column that has a type here has that one there.
    pub(crate) fn are_shown_by(&self, schema: &Schema) -> bool {
        let mut types = types_of(schema).into_iter().zip(&self.types);
        types.all(|(found, known)| found == *known || is_none(known))
    }
}

/// The objects of a release, by version.
#[derive(Clone, Debug)]
pub struct KnownCatalogue<'c> {
    facts: &'c CatalogueFacts,
    objects: HashMap<&'c ObjectVersion, KnownObject>,
}

/// An object of a release.
#[derive(Clone, Debug)]
struct KnownObject {
    /// Bytes that are read of its largest row group.
    row_group_bytes: u64,
    /// Row groups that hold rows, in order: position in the object, rows.
    row_groups: Vec<(usize, u64)>,
}

impl<'c> KnownCatalogue<'c> {
    /// The objects of a commit whose versions the store tells apart; none where it does not say how much is read of them.
    #[must_use]
    pub fn of(commit: &'c Commit) -> Self {
        let mut objects: HashMap<&ObjectVersion, KnownObject> = HashMap::new();
        for group in &commit.groups {
            for &(object, row_group, rows) in &group.shards {
                let version = commit.objects.get(object).filter(|object| object.etag.is_some());
                if let Some((version, &row_group_bytes)) = version.zip(commit.row_group_bytes.get(object)) {
                    let known = objects.entry(version).or_insert_with(|| KnownObject {
                        row_group_bytes,
                        row_groups: Vec::new(),
                    });
                    known.row_groups.push((row_group, rows));
                }
            }
        }
        Self {
            facts: &commit.catalogue,
            objects,
        }
    }

    /// What its objects agreed on, if they were read by these columns and their spectra have so many pixels.
    pub(crate) fn facts_for(&self, columns: &CatalogueColumns, n_pixels: Option<usize>) -> Option<&CatalogueFacts> {
        (self.facts.columns == *columns && n_pixels == Some(self.facts.n_pixels)).then_some(self.facts)
    }

    /// Whether an object is as it was.
    pub(crate) fn knows(&self, object: &ObjectVersion) -> bool {
        self.objects.contains_key(object)
    }

    /// Bytes that are read of the largest row group of an object that is as it was.
    pub(crate) fn row_group_bytes(&self, object: &ObjectVersion) -> Option<u64> {
        Some(self.objects.get(object)?.row_group_bytes)
    }

    /// Its row groups.
    pub(crate) fn shards(&self, object: &ObjectVersion) -> Option<Vec<Shard>> {
        let mut first_row = 0;
        let mut shards = Vec::new();
        for &(row_group, n_rows) in &self.objects.get(object)?.row_groups {
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

/// Whether a type in words is that of a column of nothing but nulls.
fn is_none(type_in_words: &str) -> bool {
    type_in_words == type_name(&DataType::Null)
}

/// The types of columns in words.
pub(crate) fn types_of(schema: &Schema) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| type_name(field.data_type()))
        .collect()
}
