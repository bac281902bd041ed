//! `simulate`: a catalogue of simulated spectra, for timings and tests of any size.

use fisherflow_spectra::Simulation;
use fisherflow_store::{simulated_columns, write_simulated};

use crate::args::SimulateArgs;
use crate::exit_code::CliError;
use crate::logging::Terminal;
use crate::printing::{Page, bytes, count};
use crate::resolve::Place;

use super::stores;

/// Writes the catalogue, object after object; memory does not grow with the number of spectra.
///
/// # Errors
/// The counts make no catalogue, there are objects already, or the store does not take them.
pub fn simulate(place: &Place, args: &SimulateArgs, terminal: &Terminal) -> Result<(), CliError> {
    let rows_per_file = rows_per_file(args)?;
    if !(args.snr_from > 0.0 && args.snr_from <= args.snr_to && args.snr_to.is_finite()) {
        return Err(CliError::Arguments(format!(
            "--snr-from {} and --snr-to {} make no range: both above 0, the first not above the second",
            args.snr_from, args.snr_to
        )));
    }
    let stores = stores(place)?;
    stores.check_folder(&place.uri)?;
    if let Some(object) = stores.list_all(&place.uri)?.first() {
        return Err(CliError::Arguments(format!(
            "{} is not empty, it holds {}: name another folder, or delete it first",
            place.uri, object.path
        )));
    }
    let simulation = Simulation::new(args.pixels, args.seed).with_snr(args.snr_from, args.snr_to);
    let files = write_simulated(&stores, &place.uri, &simulation, args.spectra, rows_per_file)?;
    let size: u64 = files.iter().map(|file| file.bytes).sum();
    let columns = simulated_columns();
    Page::new()
        .line(format!(
            "{}: {} spectra of {} pixels in {} objects, {}",
            place.uri,
            count(args.spectra),
            count(args.pixels as u64),
            count(files.len() as u64),
            bytes(size)
        ))
        .line(format!("columns: {}", columns.names().join(", ")))
        .tell(terminal);
    Ok(())
}

/// Spectra of each object: as even as whole spectra allow, the last object the smallest.
fn rows_per_file(args: &SimulateArgs) -> Result<u64, CliError> {
    let wrong = |problem: &str| Err(CliError::Arguments(problem.to_owned()));
    if args.spectra == 0 || args.pixels == 0 || args.objects == 0 {
        return wrong("--spectra, --pixels and --objects take at least 1");
    }
    let rows = args.spectra.div_ceil(args.objects);
    if args.spectra.div_ceil(rows) != args.objects {
        return Err(CliError::Arguments(format!(
            "{} spectra do not fill {} objects evenly: try --objects {}",
            args.spectra,
            args.objects,
            args.spectra.div_ceil(rows)
        )));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(spectra: u64, objects: u64) -> Result<u64, String> {
        let args = SimulateArgs {
            out: String::new(),
            spectra,
            pixels: 10,
            seed: 0,
            objects,
            snr_from: 20.0,
            snr_to: 300.0,
        };
        rows_per_file(&args).map_err(|e| e.to_string())
    }

    #[test]
    fn spectra_fill_the_objects() {
        assert_eq!(rows(4096, 4), Ok(1024));
        assert_eq!(rows(10, 3), Ok(4));
        assert!(rows(0, 1).is_err());
        // 10 spectra in 6 objects would be 2 each, and fill 5.
        assert!(rows(10, 6).unwrap_err().contains("--objects 5"));
        assert!(rows(3, 4).unwrap_err().contains("--objects 3"));
    }
}
