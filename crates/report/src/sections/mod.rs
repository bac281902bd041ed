//! The parts of the page, each from what was found.

mod blocks;
mod counts;
mod errors;
mod jacobians;
mod overview;
mod pulls;
mod run;

pub(crate) use blocks::blocks;
pub(crate) use counts::counts;
pub(crate) use errors::errors;
pub(crate) use jacobians::jacobians;
pub(crate) use overview::overview;
pub(crate) use pulls::pulls;
pub(crate) use run::run;

/// A label with its unit: `teff (K)`.
fn with_unit(name: &str, unit: &str) -> String {
    if unit.is_empty() {
        name.to_owned()
    } else {
        format!("{name} ({unit})")
    }
}
