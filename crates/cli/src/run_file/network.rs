//! `[network]` and `[network.labels]`: the trained network, and what its file does not say itself.

use fisherflow_dataflow::NetworkSource;
use fisherflow_network::{Description, LabelsDescription};

use super::entry::Entry;
use super::error::RunFileError;
use super::table::Table;
use crate::foreign_files;

/// Keys of `[network]`.
pub const KEYS: &[&str] = &["uri", "layers", "input_mean", "input_scale", "labels"];
/// Keys of `[network.labels]`.
pub const LABEL_KEYS: &[&str] = &["names", "units", "mean", "scale"];

/// Reads the table.
///
/// # Errors
/// Missing, unknown or wrong keys.
pub fn read(table: &Table<'_>) -> Result<NetworkSource, RunFileError> {
    let uri = table
        .get("uri")
        .ok_or_else(|| table.missing("uri", "write uri = \"network.safetensors\""))?;
    let labels = match table.table("labels")? {
        Some(labels) => {
            labels.only(LABEL_KEYS, super::TABLES)?;
            read_labels(&labels)?
        }
        None => LabelsDescription::default(),
    };
    Ok(NetworkSource {
        uri: safetensors(&uri)?,
        said: Description {
            layers: table.get("layers").map(|e| layers(&e)).transpose()?,
            input_mean: table
                .get("input_mean")
                .map(|e| per_pixel(&e, |_| true, ""))
                .transpose()?,
            input_scale: table
                .get("input_scale")
                .map(|e| per_pixel(&e, |x| x > 0.0, "above 0"))
                .transpose()?,
            // An empty table says as little as none, and both are one run.
            labels: Some(labels).filter(|labels| *labels != LabelsDescription::default()),
        },
    })
}

fn read_labels(table: &Table<'_>) -> Result<LabelsDescription, RunFileError> {
    let read = LabelsDescription {
        names: table.get("names").map(|e| e.distinct_strings()).transpose()?,
        units: table.get("units").map(|e| units(&e)).transpose()?,
        mean: table.get("mean").map(|e| e.numbers()).transpose()?,
        scale: table.get("scale").map(|e| scales(&e)).transpose()?,
    };
    let lengths = lengths(&read);
    let mut given = lengths.iter().filter_map(|(key, n)| n.map(|n| (key, n)));
    if let Some((first, n)) = given.next()
        && let Some((other, m)) = given.find(|(_, m)| *m != n)
        && let Some(entry) = table.get(other)
    {
        return Err(entry.invalid(format!(
            "has {m} values, `network.labels.{first}` has {n}: one a label in each"
        )));
    }
    Ok(read)
}

/// The number of labels, where the table says it.
pub fn n_labels(network: &NetworkSource) -> Option<usize> {
    let labels = network.said.labels.as_ref()?;
    lengths(labels).into_iter().find_map(|(_, n)| n)
}

/// The lists by key, and how many labels each that is there is of.
fn lengths(labels: &LabelsDescription) -> [(&'static str, Option<usize>); 4] {
    [
        ("names", labels.names.as_ref().map(Vec::len)),
        ("units", labels.units.as_ref().map(Vec::len)),
        ("mean", labels.mean.as_ref().map(Vec::len)),
        ("scale", labels.scale.as_ref().map(Vec::len)),
    ]
}

/// The URI of a safetensors file.
fn safetensors(entry: &Entry<'_>) -> Result<String, RunFileError> {
    let uri = entry.string()?;
    match foreign_files::network(&uri) {
        Some(foreign) => Err(entry.unsupported(foreign.what, foreign.remedy)),
        None if uri.to_lowercase().ends_with(".safetensors") => Ok(uri),
        None => Err(entry.invalid(format!("is \"{uri}\", expected a file whose name ends in .safetensors"))),
    }
}

/// Names of layers that the network crate knows.
fn layers(entry: &Entry<'_>) -> Result<Vec<String>, RunFileError> {
    let mut names = Vec::new();
    for element in entry.array("an array of layer names")? {
        let name = element.string()?;
        name.parse::<fisherflow_network::LayerSpec>()
            .map_err(|e| element.invalid(format!("is not a layer: {e}")))?;
        names.push(name);
    }
    if names.is_empty() {
        return Err(entry.invalid("is empty; leave it out where the file describes itself"));
    }
    Ok(names)
}

/// One number for all pixels, or one a pixel.
fn per_pixel(entry: &Entry<'_>, allowed: impl Fn(f64) -> bool, which: &str) -> Result<Vec<f64>, RunFileError> {
    if entry.is_string() {
        return Err(entry.unsupported("a file of numbers", "write one number, or an array of one a pixel"));
    }
    if !entry.is_array() {
        let x = entry.number().map_err(|error| match error {
            RunFileError::WrongType { .. } => entry.wrong_type("a number, or an array of one number a pixel"),
            other => other,
        })?;
        return if allowed(x) {
            Ok(vec![x])
        } else {
            Err(entry.invalid(format!("is {x}, expected a number {which}")))
        };
    }
    let numbers = entry.numbers()?;
    if numbers.is_empty() {
        return Err(entry.invalid("is empty, expected one number a pixel"));
    }
    match numbers.iter().position(|x| !allowed(*x)) {
        Some(i) => Err(entry.invalid(format!("has {} at pixel {i}, expected numbers {which}", numbers[i]))),
        None => Ok(numbers),
    }
}

/// Units: strings, and `""` where a label has none.
fn units(entry: &Entry<'_>) -> Result<Vec<String>, RunFileError> {
    entry.array("an array of strings")?.iter().map(Entry::text).collect()
}

/// Positive numbers.
fn scales(entry: &Entry<'_>) -> Result<Vec<f64>, RunFileError> {
    let scales = entry.numbers()?;
    match scales.iter().find(|s| **s <= 0.0) {
        Some(s) => Err(entry.invalid(format!("has {s}, expected numbers above 0"))),
        None => Ok(scales),
    }
}
