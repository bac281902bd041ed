//! The columns of a table, each name once.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};

use crate::StoreError;

/// What a column is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// The catalogue's identifier.
    Identifier,
    /// A column of the catalogue that passes through.
    Kept,
    /// Named after a label, in words.
    OfLabel(&'static str),
    /// Of every such table, in words.
    Own(&'static str),
}

/// Columns as they are named.
#[derive(Debug, Default)]
pub(crate) struct ColumnList {
    fields: Vec<Field>,
    seen: BTreeMap<String, Role>,
}

impl ColumnList {
    /// One more.
    ///
    /// # Errors
    /// There is one of its name, upper and lower case taken as equal (Spark does).
    pub fn add(&mut self, field: Field, role: Role) -> Result<(), StoreError> {
        if let Some(first) = self.seen.insert(field.name().to_lowercase(), role) {
            return Err(StoreError::ColumnCollision {
                column: field.name().clone(),
                reason: format!("once as {}, once as {}", first.words(), role.words()),
                remedy: remedy(first, role).to_owned(),
            });
        }
        self.fields.push(field);
        Ok(())
    }

    /// All of them.
    pub fn schema(self) -> SchemaRef {
        Arc::new(Schema::new(self.fields))
    }
}

impl Role {
    fn words(self) -> &'static str {
        match self {
            Self::Identifier => "the identifier",
            Self::Kept => "a kept column",
            Self::OfLabel(words) | Self::Own(words) => words,
        }
    }
}

fn remedy(one: Role, other: Role) -> &'static str {
    match (one, other) {
        (Role::Kept, _) | (_, Role::Kept) => "rename it in the catalogue, or leave it out of keep_columns",
        (Role::Identifier, _) | (_, Role::Identifier) => "rename it in the catalogue",
        _ => "give the label another name, in the network's file or in network.labels.names",
    }
}
