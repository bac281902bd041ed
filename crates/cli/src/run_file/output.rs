//! `[output]`: where the run writes.

use super::error::RunFileError;
use super::table::Table;

/// Keys of `[output]`.
pub const KEYS: &[&str] = &["uri", "releases"];

/// `[output]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputTable {
    /// As written: relative to the run file, or a URI.
    pub uri: String,
    /// Whether it is a line, and every run makes a release of it.
    pub releases: bool,
}

impl OutputTable {
    /// Reads the table.
    ///
    /// # Errors
    /// Missing or wrong values.
    pub fn read(table: &Table<'_>) -> Result<Self, RunFileError> {
        let uri = table
            .get("uri")
            .ok_or_else(|| table.missing("uri", "write uri = \"out/<name>\""))?;
        let said = uri.string()?;
        if said.contains(['*', '?', '[']) {
            return Err(uri.invalid(format!("is \"{said}\", expected one folder, without wildcards")));
        }
        let releases = table.get("releases").map_or(Ok(false), |entry| entry.boolean())?;
        Ok(Self { uri: said, releases })
    }
}
