//! What is wrong with rows, objects, networks, run files and outputs gets a flag or an error that says what and where, and the remedy;
//! nothing panics, and nothing that failed leaves a manifest.

mod flux_range;
mod known_spectra;
mod labels;
mod network_files;
mod objects;
mod outputs;
mod rows;
mod run_files;

use std::path::Path;

use fisherflow_tests::{Ended, RunFile, fisherflow, has_manifest, network, run, simulated, write_objects};

/// Pixels of the spectra here.
const PIXELS: usize = 24;

/// A folder with a network and a catalogue of 120 spectra in two objects.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    network(&folder.path().join("network.safetensors"), &[PIXELS, 6, 3]);
    write_objects(&folder.path().join("catalogue"), &simulated(PIXELS, 0, 120), 60);
    folder
}

/// Runs a run file.
fn carry_out(folder: &Path, run_file: &RunFile) -> Ended {
    run(fisherflow().arg("run").arg(run_file.write(folder, "run")))
}

/// Runs a run file that must be refused, with no manifest left.
fn refused(folder: &Path, run_file: &RunFile, code: i32, said: &[&str]) {
    let ended = carry_out(folder, run_file);
    ended.expect(code, said);
    assert!(!has_manifest(Path::new(&run_file.output)), "{ended}");
}
