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
        read.spectra = Some(e.integer(0)?);
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
    check_used(table, &read)?;
    Ok(read)
}

/// Refuses what is said of a comparison, or of a check, that is not made.
fn check_used(table: &Table<'_>, read: &Certification) -> Result<(), RunFileError> {
    if read.compares() {
        return Ok(());
    }
    let compared = [
        ("compare", !read.compare.is_empty()),
        ("hessian_steps", read.hessian_steps > 0),
    ];
    for (key, asked) in compared {
        if asked && let Some(e) = table.get(key) {
            return Err(e.invalid("is of the comparison, and with spectra = 0 there is none: leave it out"));
        }
    }
    match table.get("stars") {
        Some(e) if !read.full_pass => {
            Err(e.invalid("is of what is checked, and with spectra = 0 and full_pass = false nothing is: leave it out"))
        }
        _ => Ok(()),
    }
}
