//! `export`: the Hessian of a complete output in another program's convention, as a safetensors file.

use fisherflow_dataflow::Finished;
use fisherflow_network::to_safetensors;

use super::{check_out, output_at, stores};
use crate::args::ExportArgs;
use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Grid, Page};
use crate::resolve::{Place, threads};

/// Writes the file, and prints what is in it.
///
/// # Errors
/// The number of threads is wrong, there is no complete output, the program has no form for a block, or the file is there already, would be read
/// as spectra or cannot be written.
pub fn export(place: &Place, args: &ExportArgs, terminal: &Terminal) -> Result<(), CliError> {
    let threads = threads(args.threads)?;
    if !args.out.to_lowercase().ends_with(".safetensors") {
        return Err(CliError::Arguments(format!(
            "--out {}: its name must end in .safetensors",
            args.out
        )));
    }
    let stores = stores(place)?;
    stores.check_new(&args.out, args.overwrite)?;
    let output = output_at(&stores, &place.uri)?;
    check_out(&stores, &output, &args.out)?;
    let reduction = args.reduction.unwrap_or(args.to.reductions()[0]);
    let exported = Finished::open(&stores, &output)?.export(args.to, reduction, threads)?;
    let arrays = exported
        .tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice(), tensor.values.as_slice()));
    let metadata = exported.facts.clone().into_iter().collect();
    let bytes = to_safetensors(arrays, metadata).map_err(|error| CliError::Refused {
        uri: args.out.clone(),
        problem: error.to_string(),
    })?;
    stores.write_new(&args.out, bytes, args.overwrite)?;
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
        args.out
    ));
    page.tell(terminal);
    Ok(())
}
