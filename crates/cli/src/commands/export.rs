//! `export`: the Hessian of a complete output in another program's convention, as a safetensors file.

use fisherflow_dataflow::Finished;
use fisherflow_network::to_safetensors;

use super::{output_at, stores};
use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Grid, Page};
use crate::resolve::Export;

/// Writes the file, and prints what is in it.
///
/// # Errors
/// There is no complete output, the program has no form for a block, or the file is there already or cannot be written.
pub fn export(export: &Export, terminal: &Terminal) -> Result<(), CliError> {
    if !export.out.to_lowercase().ends_with(".safetensors") {
        return Err(CliError::Arguments(format!(
            "--out {}: its name must end in .safetensors",
            export.out
        )));
    }
    let stores = stores(&export.output)?;
    stores.check_new(&export.out, export.overwrite)?;
    let output = output_at(&stores, &export.output.uri)?;
    let exported = Finished::open(&stores, &output)?.export(export.peer, export.reduction, export.threads)?;
    let arrays = exported
        .tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice(), tensor.values.as_slice()));
    let metadata = exported.facts.clone().into_iter().collect();
    let bytes = to_safetensors(arrays, metadata).map_err(|error| CliError::Refused {
        uri: export.out.clone(),
        problem: error.to_string(),
    })?;
    stores.write_new(&export.out, bytes, export.overwrite)?;
    let facts: Vec<(&str, String)> = exported.facts.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    let mut tensors = Grid::new(&["tensor", "shape"]);
    for tensor in &exported.tensors {
        let sides: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
        tensors.row(vec![tensor.name.clone(), sides.join(" x ")]);
    }
    let mut page = Page::new();
    page.facts(&[("output", output)])
        .facts(&facts)
        .gap()
        .grid(&tensors)
        .gap();
    page.line(format!(
        "written to {}; EXPORT.md (in the source tree, crates/cli/) says what each is",
        export.out
    ));
    page.tell(terminal);
    Ok(())
}
