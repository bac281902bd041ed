//! `status`: how far the run of an output is, from what its store shows to anybody on any machine.

use std::collections::BTreeMap;

use fisherflow_store::{Claim, Manifest, Output};

use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count};
use crate::resolve::Place;

use super::stores;

/// The stages of a run that leave a mark, in order.
const STAGES: [&str; 2] = ["fit", "invert"];
/// The folder of the last stage, which is done with the output's manifest.
const PREDICTIONS: &str = "predictions";

/// Prints who holds an output, which stages are done, and what is written.
///
/// # Errors
/// There is no output, or it cannot be read.
pub fn status(place: &Place) -> Result<(), CliError> {
    let stores = stores(place)?;
    let output = Output::open(&stores, &place.uri)?;
    let (holder, manifest, contents) = (output.holder()?, output.manifest()?, output.contents()?);
    if holder.is_none() && contents.is_empty() {
        return Err(CliError::Refused {
            uri: output.uri().to_owned(),
            problem: "nothing is there: no run has begun".to_owned(),
        });
    }
    Ok(page(output.uri(), holder.as_ref(), manifest.as_ref(), &contents).print()?)
}

fn page(uri: &str, holder: Option<&Claim>, manifest: Option<&Manifest>, contents: &[(String, u64)]) -> Page {
    let mut facts = vec![(
        "output",
        match manifest {
            Some(manifest) => format!("{uri} (complete since {})", manifest.created),
            None => format!("{uri} (not complete)"),
        },
    )];
    match holder {
        Some(claim) => {
            facts.push(("run", claim.run_id.clone()));
            let verb = if manifest.is_some() { "was held by" } else { "held by" };
            facts.push((
                verb,
                format!(
                    "process {} on {} since {}: ask there whether it is at work",
                    claim.pid, claim.host, claim.started
                ),
            ));
        }
        None => facts.push(("run", "no run holds it".to_owned())),
    }
    facts.push(("stages", stages(manifest, contents)));
    let waiting = contents
        .iter()
        .filter(|(path, _)| path.starts_with("rendezvous/"))
        .count();
    if waiting > 0 {
        facts.push(("at the rendezvous", format!("{} processes", count(waiting as u64))));
    }
    let mut page = Page::new();
    page.facts(&facts);
    let mut folders: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (path, size) in contents {
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let (files, total) = folders.entry(folder).or_default();
        *files += 1;
        *total += size;
    }
    let mut grid = Grid::new(&["folder", "files", "size"]);
    for (folder, (files, size)) in folders {
        grid.row(vec![format!("{folder}/"), count(files), bytes(size)]);
    }
    page.gap().grid(&grid);
    page
}

/// `fit done, invert done, predict begun`.
fn stages(manifest: Option<&Manifest>, contents: &[(String, u64)]) -> String {
    let is_there = |start: &str| contents.iter().any(|(path, _)| path.starts_with(start));
    let mut said: Vec<String> = STAGES
        .iter()
        .map(|stage| {
            let is_done = manifest.is_some() || is_there(&format!("stages/{stage}.json"));
            format!("{stage} {}", if is_done { "done" } else { "not done" })
        })
        .collect();
    let predict = match (manifest, is_there(&format!("{PREDICTIONS}/"))) {
        (Some(_), _) => "done",
        (None, true) => "begun",
        (None, false) => "not done",
    };
    said.push(format!("predict {predict}"));
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_half_done_is_told_from_its_files() {
        let contents: Vec<(String, u64)> = [
            ("claim.json", 100),
            ("posterior/hessian/block-000.parquet", 2048),
            ("posterior/hessian/block-001.parquet", 2048),
            ("rendezvous/r/1.json", 30),
            ("stages/fit.json", 10),
        ]
        .map(|(path, size)| (path.to_owned(), size))
        .to_vec();
        let claim = Claim {
            run_id: "r".into(),
            host: "node-1".into(),
            pid: 7,
            started: "2026-01-01T00:00:00Z".into(),
            machine: String::new(),
            born: 0,
            beat: 0,
        };
        let said = page("/out", Some(&claim), None, &contents).to_string();
        for words in [
            "/out (not complete)",
            "process 7 on node-1 since 2026-01-01T00:00:00Z",
            "fit done, invert not done, predict not done",
            "1 processes",
        ] {
            assert!(said.contains(words), "{words}\n{said}");
        }
        let hessian = said
            .lines()
            .find(|line| line.starts_with("posterior/hessian/"))
            .unwrap();
        let cells: Vec<&str> = hessian.split_whitespace().collect();
        assert_eq!(cells, ["posterior/hessian/", "2", "4.0", "KiB"]);
    }

    #[test]
    fn predictions_before_the_manifest_are_only_begun() {
        let contents = [
            "stages/fit.json",
            "stages/invert.json",
            "predictions/part-00000.parquet",
        ];
        let contents: Vec<(String, u64)> = contents.iter().map(|path| ((*path).to_owned(), 1)).collect();
        assert_eq!(stages(None, &contents), "fit done, invert done, predict begun");
    }
}
