//! `inspect`: whatever stands at a URI.

use fisherflow_store::{Output, StoreError, Stores};

use crate::exit_code::CliError;
use crate::foreign_files;
use crate::resolve::Place;

use super::{inspect_catalogue, inspect_network, output_at, output_page, stores};

/// Prints what stands at a place: a network by its name, an output by its claim, otherwise a Parquet catalogue, as which any other file
/// is read.
///
/// # Errors
/// Nothing is there, or it is none of them.
pub fn inspect(place: &Place) -> Result<(), CliError> {
    let stores = stores(place)?;
    let uri = &place.uri;
    if uri.to_lowercase().ends_with(".safetensors") {
        return Ok(inspect_network::page(&stores, uri)?.print()?);
    }
    if let Some(foreign) = foreign_files::either(uri) {
        return Err(CliError::Refused {
            uri: uri.clone(),
            problem: format!(
                "{} is not yet supported by this version of fisherflow; {}",
                foreign.what, foreign.remedy
            ),
        });
    }
    let is_pattern = uri.contains('*');
    if !is_pattern && !uri.to_lowercase().ends_with(".parquet") && can_be_output(&stores, uri)? {
        let output = Output::open(&stores, &output_at(&stores, uri)?)?;
        if let Some(page) = output_page::page(&stores, &output)? {
            return Ok(page.print()?);
        }
    }
    Ok(inspect_catalogue::page(&stores, uri)?.print()?)
}

/// Whether an output can be there: none is a file.
fn can_be_output(stores: &Stores, uri: &str) -> Result<bool, CliError> {
    match stores.check_folder(uri) {
        Err(StoreError::NotAFolder { .. }) => Ok(false),
        checked => Ok(checked.map(|()| true)?),
    }
}
