//! Stars of the fit that are predicted by another path: their pulls are not called a test.

use std::path::{Path, PathBuf};

use fisherflow_tests::{
    LABELS, RunFile, Spectrum, counts, fisherflow, he_normal, manifest, run, simulated, stopped_at, write_objects,
};

use crate::{PIXELS, prepared};

/// A run file that predicts these, with labels, into `of-<name>`.
fn predicting(folder: &Path, name: &str, spectra: &[Spectrum], exclude: &str) -> PathBuf {
    write_objects(&folder.join(name), spectra, 25);
    let labels = LABELS.map(|(name, _)| name);
    let of_predict = format!("[predict]\nlabels = {labels:?}\n{exclude}\n");
    let toml = RunFile::new(folder, &format!("of-{name}"))
        .predicting(folder, name)
        .toml()
        .replace("[predict]\n", &of_predict);
    let file = folder.join(format!("{name}.toml"));
    std::fs::write(&file, toml).unwrap();
    file
}

/// The closing screen of such a run, and what the manifest says of those that were looked up.
fn told(folder: &Path, name: &str, spectra: &[Spectrum], exclude: &str) -> (String, serde_json::Value) {
    let ended = run(fisherflow().arg("run").arg(predicting(folder, name, spectra, exclude)));
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
        screen.contains("of too many stars that the fit has too: over these they are no test"),
        "{screen}"
    );
    assert!(screen.contains("note: 120 of 120 labelled stars of"), "{screen}");
    assert!(!screen.contains("a test, if"), "{screen}");
    assert_eq!(
        (found["looked_up"].as_u64(), found["found"].as_u64()),
        (Some(120), Some(120))
    );

    let half = [&simulated(PIXELS, 90, 30)[..], &simulated(PIXELS, 500, 30)[..]].concat();
    let (screen, _) = told(folder, "half", &half, "");
    assert!(screen.contains("note: 30 of 60 labelled stars of"), "{screen}");
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

#[test]
fn visits_of_a_star_count_once() {
    let folder = prepared();
    let fit = simulated(PIXELS, 0, 10);
    let visits = [&fit[..], &fit[..], &simulated(PIXELS, 500, 30)[..]].concat();
    let (screen, found) = told(folder.path(), "visits", &visits, "");
    assert!(screen.contains("note: 10 of 40 labelled stars of"), "{screen}");
    assert_eq!(found["is_test"].as_bool(), Some(false));
}

/// Beside errors that stand for "bad" they have no pulls: the test is that of the others.
#[test]
fn stars_of_the_fit_that_are_in_no_pulls_are_not_looked_up() {
    let folder = prepared();
    let folder = folder.path();
    let network = he_normal(&[PIXELS, 6, 3]);
    let predicted = |flux: &[f32]| {
        let flux: Vec<f64> = flux.iter().copied().map(f64::from).collect();
        let forward = network.forward(&flux).unwrap();
        forward.labels(&network).unwrap()
    };
    // Where every unit is off the labels do not depend on the flux.
    let mut known = simulated(PIXELS, 0, 120);
    known.retain(|star| predicted(star.flux.as_ref().unwrap()) != network.labels().mean);
    known.truncate(10);
    assert_eq!(known.len(), 10);
    for star in &mut known {
        star.ivar.as_mut().unwrap().fill(1e-20);
    }
    let stars = [&known[..], &simulated(PIXELS, 500, 30)[..]].concat();
    let (screen, found) = told(folder, "stars", &stars, "");
    assert_eq!(counts(&folder.join("of-stars"))["predict_overwhelmed"], 10);
    assert_eq!(
        (found["looked_up"].as_u64(), found["found"].as_u64()),
        (Some(30), Some(0))
    );
    assert!(
        screen.contains("a test, if the network was not trained on these"),
        "{screen}"
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

/// The fit needs no labels beside a covariance; its stars are in the sums all the same.
#[test]
fn stars_of_a_fit_without_labels_are_known_by_id() {
    let folder = prepared();
    let folder = folder.path();
    let file = predicting(folder, "copy", &simulated(PIXELS, 0, 120), "");
    let labels = format!("labels = {:?}\n", LABELS.map(|(name, _)| name));
    let given = "covariance = [[1e8, 0.0, 0.0], [0.0, 1e3, 0.0], [0.0, 0.0, 1e3]]\nholdout_fraction = 0.0";
    let toml = std::fs::read_to_string(&file).unwrap();
    // The first are those of [catalogue].
    let toml = toml.replacen(&labels, "", 1).replace("holdout_fraction = 0.25", given);
    assert_eq!(toml.matches("labels = ").count(), 1);
    std::fs::write(&file, toml).unwrap();
    let ended = run(fisherflow().arg("run").arg(&file));
    ended.expect_done();
    assert!(
        ended.stdout.contains("in the fit's catalogue") && ended.stdout.contains("by id alone"),
        "{ended}"
    );
    let output = folder.join("of-copy");
    let found = &manifest(&output)["settings"]["pulls_in_fit"];
    assert!(found["looked_up"].as_u64() > Some(0), "{found}");
    assert_eq!(found["found"], found["looked_up"]);
    let page = std::fs::read_to_string(output.join("report.html")).unwrap();
    assert!(page.contains("no test of the error bars") && !page.contains("(1 is right)"));
}

/// Every prediction is there by then.
#[test]
fn a_fit_that_can_no_longer_be_read_leaves_it_unknown() {
    let folder = prepared();
    let folder = folder.path();
    let file = predicting(folder, "others", &simulated(PIXELS, 500, 40), "");
    let mut stopped = stopped_at("before-part", &file);
    std::fs::remove_file(folder.join("catalogue/part-00001.parquet")).unwrap();
    stopped.signal(0, "CONT");
    let ended = stopped.wait(0);
    ended.expect_done();
    assert!(ended.stdout.contains("could not be looked up"), "{ended}");
    assert!(!ended.stdout.contains("a test, if") && !ended.stdout.contains("no test"));
    let found = &manifest(&folder.join("of-others"))["settings"]["pulls_in_fit"];
    assert_eq!(
        (found["looked_up"].as_u64(), found["is_test"].as_bool()),
        (Some(0), Some(false))
    );
}
