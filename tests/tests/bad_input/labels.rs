//! Label columns that the network does not know, and missing labels that are numbers, are told of; good labels are not.

use std::path::Path;

use fisherflow_tests::{RunFile, Spectrum, Table, counts, fisherflow, manifest, run, simulated, write_objects};

use crate::{PIXELS, carry_out, prepared};

const HELD_OUT: i64 = 1 << 19;
const LABELS: [&str; 3] = ["teff", "logg", "fe_h"];
const SPREAD: [f64; 3] = [520.0, 1.2, 0.78];

/// 160 spectra whose labels are what the network says of them, but for a tenth of the labels' spread.
fn known(folder: &Path) -> Vec<Spectrum> {
    let mut stars = simulated(PIXELS, 500, 160);
    write_objects(&folder.join("unknown"), &stars, 80);
    let run_file = RunFile::new(folder, "of-unknown").predicting(folder, "unknown");
    carry_out(folder, &run_file).expect_done();
    let predicted = Table::read(&folder.join("of-unknown/predictions"));
    for (row, star) in stars.iter_mut().enumerate() {
        for (k, label) in LABELS.iter().enumerate() {
            let error = 0.1 * SPREAD[k] * (2.4 * row as f64 + k as f64).sin();
            star.labels[k] = Some(predicted.number(label, row) + error);
        }
    }
    stars
}

/// The run's notes that are of labels, and its predictions.
fn notes(folder: &Path, name: &str, stars: &[Spectrum]) -> (Vec<String>, Table) {
    write_objects(&folder.join(name), stars, 80);
    let mut run_file = RunFile::new(folder, &format!("of-{name}"));
    run_file.catalogue = folder.join(name).to_str().unwrap().to_owned();
    let ended = carry_out(folder, &run_file);
    ended.expect_done();
    let output = folder.join(format!("of-{name}"));
    let notes: Vec<String> = manifest(&output)["notes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|note| note.as_str().unwrap().to_owned())
        .filter(|note| note.starts_with("label "))
        .collect();
    for note in &notes {
        assert!(ended.stdout.contains(note.as_str()), "on the closing screen: {ended}");
        assert!(ended.stderr.contains(note.as_str()), "and as a warning: {ended}");
    }
    (notes, Table::read(&output.join("predictions")))
}

/// `1 - sum (label - prediction)^2 / sum (label - mean)^2` over held-out rows, and the mean residual.
fn fit(stars: &[Spectrum], table: &Table, k: usize) -> (f64, f64) {
    let held_out: Vec<(f64, f64)> = (0..stars.len())
        .filter(|&row| table.whole("flags", row) & HELD_OUT != 0)
        .map(|row| (stars[row].labels[k].unwrap(), table.number(LABELS[k], row)))
        .collect();
    let n = held_out.len() as f64;
    let mean = held_out.iter().map(|(label, _)| label).sum::<f64>() / n;
    let about_mean: f64 = held_out.iter().map(|(label, _)| (label - mean).powi(2)).sum();
    let residual: f64 = held_out.iter().map(|(label, said)| (label - said).powi(2)).sum();
    let bias = held_out.iter().map(|(label, said)| label - said).sum::<f64>() / n;
    (1.0 - residual / about_mean, bias)
}

/// The number after some words.
fn number_after(note: &str, words: &str) -> f64 {
    let after = note.split_once(words).unwrap_or_else(|| panic!("{words}: {note}")).1;
    let end = after.find([')', ' ']).unwrap();
    after[..end].parse().unwrap_or_else(|_| panic!("{words}: {note}"))
}

#[test]
fn labels_that_the_network_does_not_know_are_told_of() {
    let folder = prepared();
    let folder = folder.path();
    let good = known(folder);
    assert_eq!(notes(folder, "good", &good).0, Vec::<String>::new());

    let mut swapped = good.clone();
    swapped.iter_mut().for_each(|star| star.labels.swap(0, 1));
    let (said, table) = notes(folder, "swapped", &swapped);
    assert_eq!(said.len(), 2, "{said:?}");
    for (k, note) in said.iter().enumerate() {
        let (r_squared, bias) = fit(&swapped, &table, k);
        assert!(note.starts_with(&format!("label {}: ", LABELS[k])), "{note}");
        assert!(
            note.contains("in another order") && note.contains("other units"),
            "{note}"
        );
        assert!(
            (number_after(note, "(R^2 ") / r_squared - 1.0).abs() < 1e-3,
            "{note}: {r_squared}"
        );
        assert!(
            (number_after(note, "residual of ") / bias - 1.0).abs() < 1e-3,
            "{note}: {bias}"
        );
    }

    let mut kilokelvin = good.clone();
    for star in &mut kilokelvin {
        star.labels[0] = star.labels[0].map(|teff| teff / 1e3);
    }
    let (said, _) = notes(folder, "kilokelvin", &kilokelvin);
    assert!(said.len() == 1 && said[0].starts_with("label teff: "), "{said:?}");
}

#[test]
fn missing_labels_that_are_numbers_are_counted() {
    let folder = prepared();
    let folder = folder.path();
    let good = known(folder);
    let mut stars = good.clone();
    for star in stars.iter_mut().step_by(9) {
        star.labels[2] = Some(-9999.0);
    }
    let (said, table) = notes(folder, "sentinels", &stars);
    let held_out = (0..stars.len()).filter(|&row| table.whole("flags", row) & HELD_OUT != 0);
    let held_out: Vec<usize> = held_out.collect();
    let expected = held_out.iter().filter(|&row| row % 9 == 0).count();
    assert!(expected > 1);
    // Those in the sums, and those that are held out from them.
    let in_sums = (0..stars.len()).step_by(9).count() - expected;
    assert!(in_sums > 1 && said.len() == 2, "{said:?}");
    for (of, n) in [("in the sums", in_sums), ("held-out spectra", expected)] {
        let said = said.iter().find(|note| note.contains(of)).unwrap();
        assert!(
            said.starts_with("label fe_h: ") && said.contains(&format!("-9999 in {n} of them")),
            "{said}"
        );
    }
    // So is one alone.
    let is_held_out = |row: &usize| held_out.contains(row);
    let summed = (0..stars.len()).find(|row| !is_held_out(row)).unwrap();
    for (name, row, of) in [
        ("sentinel", held_out[0], "held-out spectra"),
        ("summed", summed, "spectra in the sums"),
    ] {
        let mut stars = good.clone();
        stars[row].labels[2] = Some(-9999.0);
        let (said, _) = notes(folder, name, &stars);
        assert!(
            said.len() == 1 && said[0].contains("-9999 in 1 of them") && said[0].contains(of),
            "{said:?}"
        );
    }
}

/// Errors of the flux that no residual fills: in other units, and a column of inverse variances that is named as one of standard errors.
#[test]
fn errors_in_another_form_are_told_of() {
    let folder = prepared();
    let folder = folder.path();
    let mut stars = known(folder);
    assert_eq!(notes(folder, "right", &stars).0, Vec::<String>::new());
    let mut run_file = RunFile::new(folder, "of-wrong");
    run_file.catalogue = folder.join("right").to_str().unwrap().to_owned();
    let file = folder.join("wrong.toml");
    std::fs::write(&file, run_file.toml().replace("ivar = \"ivar\"", "sigma = \"ivar\"")).unwrap();
    let ended = run(fisherflow().arg("run").arg(&file));
    ended.expect_done();
    assert!(
        ended.stdout.contains("an inverse variance that is named as sigma"),
        "{ended}"
    );

    for star in &mut stars {
        star.ivar.as_mut().unwrap().iter_mut().for_each(|ivar| *ivar *= 1e-8);
    }
    let (said, _) = notes(folder, "large", &stars);
    assert_eq!(said.len(), 3, "{said:?}");
    for (label, note) in LABELS.iter().zip(&said) {
        assert!(
            note.starts_with(&format!("label {label}: its error bars are ")),
            "{note}"
        );
        assert!(
            note.contains(" held-out spectra. Look for errors of the flux"),
            "{note}"
        );
    }
}

/// Spectra to predict that are in other units than those of the fit, or whose errors are.
#[test]
fn spectra_unlike_those_of_the_fit_are_told_of() {
    const UNLIKE_FIT: i64 = 1 << 22;
    let folder = prepared();
    let folder = folder.path();
    write_objects(&folder.join("fit"), &simulated(PIXELS, 0, 160), 80);
    // The first `n` spectra times a factor, their errors times another.
    let predict = |name: &str, n: usize, [flux, error]: [f32; 2]| {
        let mut stars = simulated(PIXELS, 500, 60);
        for star in &mut stars[..n] {
            star.flux.as_mut().unwrap().iter_mut().for_each(|x| *x *= flux);
            star.ivar.as_mut().unwrap().iter_mut().for_each(|x| *x /= error * error);
        }
        write_objects(&folder.join(name), &stars, 30);
        let mut run_file = RunFile::new(folder, &format!("of-{name}")).predicting(folder, name);
        run_file.catalogue = folder.join("fit").to_str().unwrap().to_owned();
        let toml = run_file
            .toml()
            .replace("[predict]\n", &format!("[predict]\nlabels = {LABELS:?}\n"));
        let file = folder.join(format!("{name}.toml"));
        std::fs::write(&file, toml).unwrap();
        let ended = run(fisherflow().arg("run").arg(file));
        ended.expect_done();
        let output = folder.join(format!("of-{name}"));
        let found = Table::read(&output.join("predictions"));
        let flagged: Vec<usize> = (0..found.len())
            .filter(|&row| found.whole("flags", row) & UNLIKE_FIT != 0)
            .collect();
        assert_eq!(counts(&output)["predict_unlike_fit"], flagged.len() as u64);
        (flagged, ended)
    };
    let (unlike, ended) = predict("same", 60, [1.0, 1.0]);
    assert!(
        unlike.is_empty() && !ended.stdout.contains("unlike"),
        "{unlike:?} {ended}"
    );
    assert!(!ended.stdout.contains("times as large"), "{ended}");
    for (name, n, said) in [
        ("percent", 60, "60 of 60, are unlike those of"),
        ("some", 5, "5 of 60 spectra of "),
    ] {
        let (unlike, ended) = predict(name, n, [100.0, 100.0]);
        assert_eq!(unlike, (0..n).collect::<Vec<_>>());
        assert!(ended.stdout.contains(said) && ended.stderr.contains(said), "{ended}");
        assert!(ended.stdout.contains("(the first: id "), "{ended}");
    }
    let (_, ended) = predict("uncertain", 60, [1.0, 1e4]);
    let said = "residuals of 60 spectra of [predict]";
    assert!(ended.stdout.contains(said) && ended.stderr.contains(said), "{ended}");
}
