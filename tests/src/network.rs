//! Small networks for the tests' catalogues.

use std::path::Path;

use fisherflow_network::{Activation, Arithmetic, Labels, Network, Precision};

/// The labels of the simulated spectra: names and units.
pub const LABELS: [(&str, &str); 3] = [("teff", "K"), ("logg", "dex"), ("fe_h", "dex")];

/// A network of He-normal weights, its widths from pixels to the three labels of the simulated spectra.
///
/// # Panics
/// The widths are none.
#[must_use]
pub fn he_normal(widths: &[usize]) -> Network {
    let labels = Labels {
        names: LABELS.map(|(name, _)| name.to_owned()).to_vec(),
        units: LABELS.map(|(_, unit)| unit.to_owned()).to_vec(),
        mean: vec![4600.0, 2.4, -0.85],
        scale: vec![520.0, 1.2, 0.78],
    };
    let arithmetic = Arithmetic {
        precision: Precision::F64,
        threads: 1,
    };
    Network::he_normal(widths, Activation::Relu, labels, &[1.0], &[0.1], 5, arithmetic).expect("a network")
}

/// Writes [`he_normal`] to a file.
///
/// # Panics
/// It cannot be written.
pub fn network(file: &Path, widths: &[usize]) {
    let bytes = he_normal(widths).to_safetensors().expect("a network as bytes");
    std::fs::write(file, bytes).expect("a file can be written");
}
