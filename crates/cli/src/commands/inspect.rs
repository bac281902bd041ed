//! `inspect`: whatever stands at a URI.

use fisherflow_store::Output;

use crate::exit_code::CliError;
use crate::resolve::Place;

use super::releases::output_at;
use super::{inspect_catalogue, inspect_network, output_page, stores};

/// Prints what stands at a place: a network by its name, an output by its claim, otherwise a Parquet catalogue.
///
/// # Errors
/// Nothing is there, or it is none of them.
pub fn inspect(place: &Place) -> Result<(), CliError> {
    let stores = stores(place)?;
    let uri = &place.uri;
    if uri.to_lowercase().ends_with(".safetensors") {
        return Ok(inspect_network::page(&stores, uri)?.print()?);
    }
    if !uri.contains('*') && !uri.to_lowercase().ends_with(".parquet") {
        let output = Output::open(&stores, &output_at(&stores, uri)?)?;
        if let Some(page) = output_page::page(&output)? {
            return Ok(page.print()?);
        }
    }
    Ok(inspect_catalogue::page(&stores, uri)?.print()?)
}
