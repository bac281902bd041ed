//! What was run: the network, the catalogues, the run and its settings.

use fisherflow_store::{ManifestInput, by_folder};

use crate::findings::Findings;
use crate::html::{Cell, escape, table};
use crate::numbers::{bytes, count};
use crate::settings::others;

/// The section.
pub(crate) fn run(findings: &Findings) -> String {
    let manifest = &findings.manifest;
    let network = &findings.settings.network;
    let labels: Vec<String> = network
        .labels
        .iter()
        .enumerate()
        .map(|(label, name)| super::with_unit(name, findings.settings.unit(label)))
        .collect();
    let facts = [
        ("run", manifest.run_id.clone()),
        ("finished", manifest.created.clone()),
        ("output", findings.output.clone()),
        ("fisherflow", manifest.fisherflow.clone()),
        ("manifest version", manifest.version.to_string()),
        ("labels", labels.join(", ")),
        ("weights of the network", count(network.weights)),
    ];
    let facts: Vec<Vec<Cell>> = facts
        .into_iter()
        .map(|(name, value)| vec![Cell::text(name), Cell::text(value)])
        .collect();
    let inputs: Vec<Vec<Cell>> = manifest.inputs.iter().map(input).collect();
    let settings: Vec<Vec<Cell>> = others(&manifest.settings)
        .into_iter()
        .filter(|(name, _)| !name.starts_with("network."))
        .map(|(name, value)| vec![Cell::text(name), Cell::text(value)])
        .collect();
    let mut out = table(&[], &facts);
    out.push_str("<h3>Read</h3>\n");
    out.push_str(&table(&["role", "URI", "objects", "rows", "size", "hash"], &inputs));
    out.push_str("<p class=\"small\">Hash: SHA-256 of a network's bytes; of the paths, sizes and etags of a catalogue's objects, not of what they hold.</p>\n");
    out.push_str("<h3>Settings</h3>\n");
    out.push_str(&table(&[], &settings));
    out.push_str("<h3>Written</h3>\n");
    out.push_str(&files(findings));
    out
}

fn input(input: &ManifestInput) -> Vec<Cell> {
    let (of, hash) = input.hash();
    vec![
        Cell::text(input.role.as_str()),
        Cell::text(input.uri.as_str()),
        Cell::Number(count(input.objects)),
        Cell::Number(if input.role == "network" {
            "–".to_owned()
        } else {
            count(input.rows)
        }),
        Cell::Number(bytes(input.bytes)),
        Cell::Html(format!("<code title=\"{of} {0}\">{0}</code>", escape(hash))),
    ]
}

/// Files, rows and bytes of each folder.
fn files(findings: &Findings) -> String {
    let rows: Vec<Vec<Cell>> = by_folder(&findings.manifest.files)
        .into_iter()
        .map(|(folder, of)| {
            vec![
                Cell::text(format!("{folder}/")),
                Cell::Number(count(of.files)),
                Cell::Number(count(of.rows)),
                Cell::Number(bytes(of.bytes)),
            ]
        })
        .collect();
    table(&["folder", "files", "rows", "size"], &rows)
}
