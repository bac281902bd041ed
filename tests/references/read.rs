//! Reference outputs for tests.

use std::collections::BTreeMap;
use std::path::Path;

use fisherflow_network::{Arithmetic, Description, Network, Precision};

#[path = "npz.rs"]
pub mod npz;

use npz::Array;

/// Arrays by name.
pub type Arrays = BTreeMap<String, Array>;

/// The arrays of a case of `networks`, `posteriors` or `peers`, and of the cases before it where names are not its own.
pub fn of_cases(file: &str, cases: &[&str]) -> Arrays {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/references/{file}.npz"));
    let mut all = npz::read(&path);
    let mut found = Arrays::new();
    for case in cases {
        let of_case = all.extract_if(.., |name, _| name.split_once('/').is_some_and(|(of, _)| of == *case));
        let named: Vec<_> = of_case
            .map(|(name, array)| (name[case.len() + 1..].to_owned(), array))
            .collect();
        assert!(!named.is_empty(), "{} has no {case}", path.display());
        found.extend(named);
    }
    found
}

/// The network of weights `W_0`, `b_0`, ... and the normalisation among the arrays; `without`: names of arrays that it is not to have.
pub fn network(arrays: &Arrays, layers: &[&str], without: &str, precision: Precision) -> Network {
    let tensors: Vec<(String, Vec<u8>, Vec<usize>)> = arrays
        .iter()
        .filter(|(name, _)| without.is_empty() || !name.starts_with(without))
        .filter_map(|(name, Array { shape, values })| {
            let tensor = match name.split_once('_')? {
                ("W", layer) => format!("{layer}.weight"),
                ("b", layer) => format!("{layer}.bias"),
                ("input" | "label", "mean" | "scale") => format!("normalisation.{name}"),
                _ => return None,
            };
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            Some((tensor, bytes, shape.clone()))
        })
        .collect();
    let views = tensors.iter().map(|(name, data, shape)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F64, shape.clone(), data).unwrap();
        (name, view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    let said = Description {
        layers: Some(layers.iter().map(|&name| name.to_owned()).collect()),
        ..Description::default()
    };
    Network::from_safetensors(&bytes, &said, Arithmetic { precision, threads: 1 }).unwrap()
}
