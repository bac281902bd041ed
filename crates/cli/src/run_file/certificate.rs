//! `[certificate]`: what is checked of the error bars before they are given out.

use fisherflow_curvature::StructureKind;
use fisherflow_dataflow::Certification;

use super::error::RunFileError;
use super::table::Table;

/// Keys of `[certificate]`.
pub const KEYS: &[&str] = &["spectra", "stars", "compare", "full_pass", "hessian_steps"];

/// Reads the table.
///
/// # Errors
/// Wrong values.
pub fn read(table: &Table<'_>) -> Result<Certification, RunFileError> {
    let mut read = Certification::default();
    if let Some(e) = table.get("spectra") {
        read.spectra = e.integer(0)?;
    }
    if let Some(e) = table.get("stars") {
        read.stars = e.integer(1)?;
    }
    if let Some(e) = table.get("compare") {
        for e in e.array("an array of structures")? {
            let structure = e.choice(
                &[
                    ("kfac", StructureKind::Kfac),
                    ("ekfac", StructureKind::Ekfac),
                    ("block", StructureKind::Block),
                    ("diagonal", StructureKind::Diagonal),
                ],
                &[],
            )?;
            if read.compare.contains(&structure) {
                return Err(e.invalid(format!("names \"{structure}\" twice")));
            }
            read.compare.push(structure);
        }
    }
    if let Some(e) = table.get("full_pass") {
        read.full_pass = e.boolean()?;
    }
    if let Some(e) = table.get("hessian_steps") {
        read.hessian_steps = e.count(0)?;
    }
    Ok(read)
}
