//! Spectra of the fit that are predicted by another path: their pulls are not called a test.

use std::path::Path;

use fisherflow_tests::{LABELS, RunFile, Spectrum, fisherflow, manifest, run, simulated, write_objects};

use crate::{PIXELS, prepared};

/// The closing screen of a run that predicts these, with labels, and what the manifest says of those that were looked up.
fn told(folder: &Path, name: &str, spectra: &[Spectrum], exclude: &str) -> (String, serde_json::Value) {
    write_objects(&folder.join(name), spectra, 25);
    let labels = LABELS.map(|(name, _)| name);
    let of_predict = format!("[predict]\nlabels = {labels:?}\n{exclude}\n");
    let toml = RunFile::new(folder, &format!("of-{name}"))
        .predicting(folder, name)
        .toml()
        .replace("[predict]\n", &of_predict);
    let file = folder.join(format!("{name}.toml"));
    std::fs::write(&file, toml).unwrap();
    let ended = run(fisherflow().arg("run").arg(file));
    ended.expect_done();
    let output = folder.join(format!("of-{name}"));
    let page = std::fs::read_to_string(output.join("report.html")).unwrap();
    assert_eq!(
        page.contains("no test of the error bars"),
        ended.stdout.contains("they are no test")
    );
    (ended.stdout, manifest(&output)["settings"]["pulls_in_fit"].clone())
}

#[test]
fn pulls_over_a_copy_of_the_fit_s_spectra_are_no_test() {
    let folder = prepared();
    let folder = folder.path();
    // Other files, row groups and order than those of the fit.
    let mut copy = simulated(PIXELS, 0, 120);
    copy.reverse();
    let (screen, found) = told(folder, "copy", &copy, "");
    assert!(
        screen.contains("of 120 looked up 120 are in the fit's catalogue too: over these they are no test"),
        "{screen}"
    );
    assert!(screen.contains("note: 120 of 120 labelled spectra of"), "{screen}");
    assert!(!screen.contains("a test, if"), "{screen}");
    assert_eq!(
        (found["looked_up"].as_u64(), found["found"].as_u64()),
        (Some(120), Some(120))
    );

    let half = [&simulated(PIXELS, 90, 30)[..], &simulated(PIXELS, 500, 30)[..]].concat();
    let (screen, _) = told(folder, "half", &half, "");
    assert!(screen.contains("of 60 looked up 30 are in"), "{screen}");
    write_objects(&folder.join("known"), &half[..30], 30);
    let exclude = format!("exclude = {:?}", folder.join("known/*.parquet").to_str().unwrap());
    let (screen, found) = told(folder, "others", &half, &exclude);
    assert!(
        screen.contains("pulls are over 30 spectra of [predict]: a test, if"),
        "{screen}"
    );
    assert_eq!(
        (found["looked_up"].as_u64(), found["found"].as_u64()),
        (Some(30), Some(0))
    );
}

/// Identifiers that count from 0 in each catalogue say nothing.
#[test]
fn other_spectra_of_the_same_ids_are_a_test() {
    let folder = prepared();
    let mut others = simulated(PIXELS, 500, 40);
    for (other, known) in others.iter_mut().zip(simulated(PIXELS, 0, 40)) {
        other.id = known.id;
    }
    let (screen, _) = told(folder.path(), "others", &others, "");
    assert!(
        screen.contains("a test, if the network was not trained on these"),
        "{screen}"
    );
}
