//! One pixel that no star has leaves everyone else's error bars as they are without that star.

use std::path::Path;

use fisherflow_spectra::{holdout_hash, is_held_out};
use fisherflow_tests::{PlainNetwork, RunFile, Spectrum, Table, counts, manifest, simulated, write_objects};

use crate::{PIXELS, carry_out, prepared, refused};

const FLUX_NOT_FINITE: i64 = 1 << 4;
const FLUX_OUT_OF_RANGE: i64 = 1 << 9;
const HELD_OUT: i64 = 1 << 19;
const IN_SUMS: i64 = 1 << 20;

fn with_pixel(stars: &[Spectrum], rows: [usize; 2], flux: f32) -> Vec<Spectrum> {
    let mut stars = stars.to_vec();
    for row in rows {
        stars[row].flux.as_mut().unwrap()[5] = flux;
    }
    // Masked, it says nothing of the star.
    stars[7].flux.as_mut().unwrap()[2] = flux;
    stars[7].ivar.as_mut().unwrap()[2] = 0.0;
    stars
}

/// A run over the spectra, which are the ones to predict too.
fn outcome(folder: &Path, name: &str, stars: &[Spectrum]) -> (Table, Table) {
    write_objects(&folder.join(name), stars, 60);
    let mut run_file = RunFile::new(folder, &format!("of-{name}"));
    run_file.catalogue = folder.join(name).to_str().unwrap().to_owned();
    carry_out(folder, &run_file).expect_done();
    let output = folder.join(format!("of-{name}"));
    (
        Table::read(&output.join("predictions")),
        Table::read(&output.join("posterior/hessian")),
    )
}

#[test]
fn a_spectrum_out_of_range_is_flagged_named_and_in_no_sum() {
    let folder = prepared();
    let folder = folder.path();
    let stars = simulated(PIXELS, 0, 120);
    let (clean, _) = outcome(folder, "clean", &stars);
    let first = |flag: i64| {
        (0..120)
            .find(|&row| row != 7 && clean.whole("flags", row) & flag != 0)
            .unwrap()
    };
    let rows = [first(HELD_OUT), first(IN_SUMS)];

    // What is not finite is a bad row by itself: nothing of the others may differ from that.
    let (expected, hessian) = outcome(folder, "nan", &with_pixel(&stars, rows, f32::NAN));
    for (name, flux) in [("large", 1e20), ("largest", f32::MAX), ("some", -1e6)] {
        let (found, summed) = outcome(folder, name, &with_pixel(&stars, rows, flux));
        assert_eq!(summed.len(), hessian.len());
        for row in 0..hessian.len() {
            assert_eq!(
                &summed.cell("values", row),
                &hessian.cell("values", row),
                "{name}: row {row}"
            );
        }
        for row in 0..120 {
            if rows.contains(&row) {
                assert_eq!(expected.whole("flags", row), FLUX_NOT_FINITE);
                assert_eq!(found.whole("flags", row), FLUX_OUT_OF_RANGE, "{name}");
                assert!(found.is_null("teff", row), "{name}");
                continue;
            }
            for column in found.names() {
                assert_eq!(
                    &found.cell(&column, row),
                    &expected.cell(&column, row),
                    "{name}: {column} of row {row}"
                );
            }
        }
        let output = folder.join(format!("of-{name}"));
        assert_eq!((counts(&output)["fit_bad"], counts(&output)["predict_bad"]), (2, 2));
        let notes = manifest(&output)["notes"].to_string();
        let row = rows[0].min(rows[1]);
        let place = format!(
            "(the first: id {}, row {row} of {} (row group 0), pixel 5: {flux:.3e})",
            clean.text("id", row),
            folder.join(name).join("part-00000.parquet").display()
        );
        assert!(
            notes.contains("2 FLUX_OUT_OF_RANGE") && notes.contains(&place),
            "{place}: {notes}"
        );
    }
}

/// How far is too far is the run file's to say.
#[test]
fn the_run_file_says_how_far_an_input_may_be() {
    let folder = prepared();
    let folder = folder.path();
    let mut stars = simulated(PIXELS, 0, 120);
    stars[70].flux.as_mut().unwrap()[5] = 1e6;
    write_objects(&folder.join("catalogue"), &stars, 60);
    let mut run_file = RunFile::new(folder, "out");
    let noise = run_file.noise.clone();
    for (at, (said, is_out)) in [
        ("", true),
        ("farthest_input = 100", true),
        ("farthest_input = 1e9", false),
        ("farthest_input = false", false),
    ]
    .into_iter()
    .enumerate()
    {
        run_file.noise = format!("{noise}\n{said}");
        let name = format!("out-{at}");
        run_file.output = folder.join(&name).to_str().unwrap().to_owned();
        carry_out(folder, &run_file).expect_done();
        let flags = Table::read(&folder.join(&name).join("predictions")).whole("flags", 70);
        assert_eq!(flags == FLUX_OUT_OF_RANGE, is_out, "{said}: {flags}");
    }
}

/// Where none is to be held out, or a small share happens to hold none, a tenth that stays in the sums shows how large a flux may be.
#[test]
fn a_flux_is_out_of_range_without_held_out_spectra_too() {
    for (holdout_fraction, flux) in [("0", 1e6), ("1e-9", 1e6), ("1e-9", f32::MAX)] {
        let folder = prepared();
        let folder = folder.path();
        let mut stars = simulated(PIXELS, 0, 120);
        stars[70].flux.as_mut().unwrap()[5] = flux;
        write_objects(&folder.join("catalogue"), &stars, 60);
        let mut run_file = RunFile::new(folder, "out");
        let covariance = "covariance = [[1e4, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]]";
        run_file.noise = format!("{covariance}\nholdout_fraction = {holdout_fraction}");
        carry_out(folder, &run_file).expect_done();
        let table = Table::read(&folder.join("out/predictions"));
        for row in 0..120 {
            let expected = if row == 70 { FLUX_OUT_OF_RANGE } else { IN_SUMS };
            assert_eq!(table.whole("flags", row), expected, "{holdout_fraction}: row {row}");
        }
    }
}

#[test]
fn a_network_that_overflows_is_told_of_with_the_spectrum() {
    let folder = prepared();
    let mut network = PlainNetwork::random(&[PIXELS, 6, 3], "relu", 4);
    for layer in &mut network.layers {
        layer.weight.iter_mut().flatten().for_each(|weight| *weight *= 1e25);
    }
    network.write(&folder.path().join("network.safetensors"));
    let mut run_file = RunFile::new(folder.path(), "out");
    refused(
        folder.path(),
        &run_file,
        3,
        &["is not finite: id sim-", "which is held out", "exclude"],
    );
    let covariance = "covariance = [[1e4, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]]";
    run_file.noise = format!("{covariance}\nholdout_fraction = 1e-9");
    run_file.output = folder.path().join("none-held-out").to_str().unwrap().to_owned();
    let ended = carry_out(folder.path(), &run_file);
    ended.expect(3, &["is not finite: id sim-", "exclude"]);
    assert!(!ended.to_string().contains("which is held out"), "{ended}");
}

/// Of a spectrum that is in the sums alone.
#[test]
fn an_overflow_in_the_sums_is_told_of_with_the_spectrum_s_place() {
    let folder = prepared();
    let mut network = PlainNetwork::random(&[PIXELS, 6, 3], "relu", 4);
    for layer in &mut network.layers {
        layer.weight.iter_mut().flatten().for_each(|weight| *weight *= 1e15);
    }
    network.write(&folder.path().join("network.safetensors"));
    let mut stars = simulated(PIXELS, 0, 120);
    let id = |row: usize| stars[row].id.clone().unwrap();
    let row = (60..120)
        .find(|&row| !is_held_out(holdout_hash(&id(row)), 0.1))
        .unwrap();
    let id = id(row);
    stars[row].flux.as_mut().unwrap().fill(1e10);
    write_objects(&folder.path().join("catalogue"), &stars, 60);
    let mut run_file = RunFile::new(folder.path(), "out");
    let covariance = "covariance = [[1e4, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]]";
    run_file.noise = format!("{covariance}\nholdout_fraction = 0.1\nfarthest_input = false");
    let place = format!("is not finite: id {id}, row {} of", row - 60);
    refused(
        folder.path(),
        &run_file,
        3,
        &[&place, "part-00001.parquet (row group 0)", "exclude"],
    );
}
