//! A TOML table read key by key, so that unknown keys and wrong types are errors that say file and line.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::entry::Entry;
use super::error::{At, RunFileError};
use super::nearest::{called, listed, meant};

/// The text of a run file, and where its lines begin.
pub struct Source {
    file: Arc<str>,
    text: String,
}

impl Source {
    /// The text of the file that the user calls `file`.
    pub fn new(file: &str, text: String) -> Self {
        Self {
            file: file.into(),
            text,
        }
    }

    /// The line of a byte offset.
    pub fn at(&self, offset: usize) -> At {
        let end = offset.min(self.text.len());
        let newlines = self.text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count();
        At {
            file: Arc::clone(&self.file),
            line: newlines + 1,
        }
    }

    /// The document's root table.
    ///
    /// # Errors
    /// [`RunFileError::Syntax`] where the text is not TOML.
    pub fn parse(&self) -> Result<DeTable<'_>, RunFileError> {
        DeTable::parse(&self.text)
            .map(toml::Spanned::into_inner)
            .map_err(|e| RunFileError::Syntax {
                at: self.at(e.span().map_or(0, |s| s.start)),
                message: e.message().to_owned(),
            })
    }
}

/// One table of the document.
pub struct Table<'d> {
    source: &'d Source,
    name: String,
    at: At,
    entries: &'d DeTable<'d>,
}

impl<'d> Table<'d> {
    /// The root of the document.
    pub fn root(source: &'d Source, entries: &'d DeTable<'d>) -> Self {
        Self {
            source,
            name: String::new(),
            at: source.at(0),
            entries,
        }
    }

    /// Where the table begins.
    pub fn at(&self) -> &At {
        &self.at
    }

    /// The key with the table's name before it.
    pub fn full(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    /// Refuses every key that is not in `known`.
    ///
    /// # Errors
    /// [`RunFileError::UnknownKey`] for the first such key of the file; `elsewhere` lists the keys of the other tables, for a key that
    /// stands under the wrong header.
    pub fn only(&self, known: &[&str], elsewhere: &[(&str, &[&str])]) -> Result<(), RunFileError> {
        let first = self
            .entries
            .keys()
            .filter(|k| !known.contains(&k.get_ref().as_ref()))
            .min_by_key(|k| k.span().start);
        let Some(key) = first else { return Ok(()) };
        let name = key.get_ref().as_ref();
        let home = elsewhere.iter().find(|(_, keys)| keys.contains(&name));
        let keys = || format!("{} has the keys {}", self.title(), listed(known, '`', "and"));
        let quoted = |key: &str| format!("`{}`", self.full(key));
        let remedy = match home {
            Some((table, _)) => {
                let here = called(&self.name, name, known, quoted).map(|said| format!("{said}, or "));
                format!("{}it is a key of [{table}]", here.unwrap_or_default())
            }
            None => match meant(&self.name, name, known, quoted) {
                Some(meant) => format!("{meant}; {}", keys()),
                None => keys(),
            },
        };
        Err(RunFileError::UnknownKey {
            at: self.source.at(key.span().start),
            key: self.full(name),
            remedy,
        })
    }

    /// What a reader calls the table.
    fn title(&self) -> String {
        if self.name.is_empty() {
            "a run file".to_owned()
        } else {
            format!("[{}]", self.name)
        }
    }

    /// The value of a key, where the file has it.
    pub fn get(&self, key: &str) -> Option<Entry<'d>> {
        self.entries
            .iter()
            .find(|(k, _)| k.get_ref().as_ref() == key)
            .map(|(k, v)| Entry {
                source: self.source,
                key: self.full(key),
                at: self.source.at(k.span().start),
                value: v.get_ref(),
            })
    }

    /// Every key and its value, in the order of the file.
    pub fn entries(&self) -> Vec<(String, Entry<'d>)> {
        let mut all: Vec<_> = self.entries.iter().collect();
        all.sort_by_key(|(k, _)| k.span().start);
        all.into_iter()
            .map(|(k, v)| {
                let name = k.get_ref().to_string();
                let entry = Entry {
                    source: self.source,
                    key: self.full(&format!("\"{name}\"")),
                    at: self.source.at(k.span().start),
                    value: v.get_ref(),
                };
                (name, entry)
            })
            .collect()
    }

    /// The table under a key, where the file has it.
    ///
    /// # Errors
    /// [`RunFileError::WrongType`] where the key holds anything else.
    pub fn table(&self, key: &str) -> Result<Option<Table<'d>>, RunFileError> {
        let Some(entry) = self.get(key) else {
            return Ok(None);
        };
        match entry.value {
            DeValue::Table(entries) => Ok(Some(Table {
                source: self.source,
                name: entry.key,
                at: entry.at,
                entries,
            })),
            _ => Err(entry.wrong_type("a table")),
        }
    }

    /// The error for a key that must be there.
    pub fn missing(&self, key: &str, remedy: impl Into<String>) -> RunFileError {
        RunFileError::Missing {
            at: self.at.clone(),
            key: self.full(key),
            remedy: remedy.into(),
        }
    }
}
