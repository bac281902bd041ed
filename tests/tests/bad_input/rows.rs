//! Bad rows keep their place, with nulls and a flag; the rows beside them do not notice.

use std::path::Path;

use fisherflow_tests::{
    RunFile, Spectrum, Table, counts, digests, manifest, simulated, write_catalogue, write_objects,
};

use crate::{PIXELS, carry_out, prepared, refused};

/// Bits of `flags`; the numbers are a contract with the readers.
const FLUX_NULL: i64 = 1 << 0;
const ERROR_NULL: i64 = 1 << 1;
const WRONG_LENGTH: i64 = 1 << 3;
const FLUX_NOT_FINITE: i64 = 1 << 4;
const NO_GOOD_PIXEL: i64 = 1 << 5;
const ID_NULL: i64 = 1 << 6;
const PIXELS_MASKED: i64 = 1 << 16;
const LABEL_MISSING: i64 = 1 << 17;
const HELD_OUT: i64 = 1 << 19;
const IN_SUMS: i64 = 1 << 20;

/// Rows and the flag that each must get.
const BAD: [(usize, i64); 10] = [
    (0, WRONG_LENGTH),
    (3, FLUX_NOT_FINITE),
    (5, FLUX_NULL),
    (8, WRONG_LENGTH),
    (9, WRONG_LENGTH),
    (12, NO_GOOD_PIXEL),
    (13, ERROR_NULL),
    (17, NO_GOOD_PIXEL),
    (21, ID_NULL),
    (22, FLUX_NOT_FINITE),
];

/// A row whose only NaN is masked: good.
const MASKED: usize = 19;

fn spoil(spectra: &mut [Spectrum]) {
    let flux = |spectrum: &mut Spectrum, change: &dyn Fn(&mut Vec<f32>)| change(spectrum.flux.as_mut().unwrap());
    flux(&mut spectra[0], &|flux| flux.truncate(1));
    flux(&mut spectra[3], &|flux| flux[7] = f32::NAN);
    spectra[5].flux = None;
    flux(&mut spectra[8], &|flux| flux.truncate(PIXELS - 1));
    flux(&mut spectra[9], &|flux| flux.push(1.0));
    spectra[12].ivar = Some(vec![0.0; PIXELS]);
    spectra[13].ivar = None;
    spectra[17].ivar = Some(vec![f32::NAN; PIXELS]);
    flux(&mut spectra[MASKED], &|flux| flux[2] = f32::NAN);
    spectra[MASKED].ivar.as_mut().unwrap()[2] = 0.0;
    spectra[21].id = None;
    flux(&mut spectra[22], &|flux| flux[0] = f32::INFINITY);
}

fn predict(folder: &Path, catalogue: &str) -> (Table, Table) {
    let run_file = RunFile::new(folder, &format!("of-{catalogue}")).predicting(folder, catalogue);
    carry_out(folder, &run_file).expect_done();
    let output = Path::new(&run_file.output);
    assert!(!digests(output).is_empty());
    (
        Table::read(&output.join("predictions")),
        Table::read(&output.join("jacobians")),
    )
}

#[test]
fn bad_rows_keep_their_place_and_the_others_do_not_notice() {
    let folder = prepared();
    let mut stars = simulated(PIXELS, 200, 40);
    // Of several row groups: a row is named by its position in the file, as the tables have it.
    let write = |name: &str, stars: &[Spectrum]| {
        write_catalogue(&folder.path().join(name), "part-00000.parquet", &stars[..25], 4);
        write_catalogue(&folder.path().join(name), "part-00001.parquet", &stars[25..], 4);
    };
    write("clean", &stars);
    spoil(&mut stars);
    write("spoilt", &stars);
    let (clean, clean_jacobians) = predict(folder.path(), "clean");
    let (spoilt, jacobians) = predict(folder.path(), "spoilt");

    assert_eq!((clean.len(), spoilt.len()), (40, 40));
    assert_eq!((clean_jacobians.len(), jacobians.len()), (120, 120));
    let left_alone = ["id", "file", "row", "visit", "n_pix_good", "flags", "flag_bad"];
    for row in 0..40 {
        assert_eq!(spoilt.whole("visit", row), 200 + row as i64, "order of the catalogue");
        let expected = BAD.iter().find(|(bad, _)| *bad == row).map(|(_, flag)| *flag);
        for column in spoilt.names() {
            let what = format!("{column} of row {row}");
            match expected {
                Some(_) if left_alone.contains(&column.as_str()) => {}
                Some(_) => assert!(spoilt.is_null(&column, row), "{what}"),
                None if row == MASKED => assert!(!spoilt.is_null(&column, row), "{what}"),
                None => assert_eq!(&spoilt.cell(&column, row), &clean.cell(&column, row), "{what}"),
            }
        }
        for label in 0..3 {
            let place = 3 * row + label;
            match expected {
                Some(_) => assert!(jacobians.is_null("jacobian", place), "row {row}"),
                None if row == MASKED => assert_eq!(jacobians.list("jacobian", place).len(), PIXELS),
                None => assert_eq!(
                    &jacobians.cell("jacobian", place),
                    &clean_jacobians.cell("jacobian", place)
                ),
            }
        }
        assert_eq!(spoilt.flag("flag_bad", row), expected.is_some(), "row {row}");
        if let Some(flag) = expected {
            assert_eq!(spoilt.whole("flags", row), flag, "row {row}");
        }
    }
    assert!(spoilt.is_null("id", 21));
    assert_eq!(spoilt.whole("flags", MASKED), PIXELS_MASKED);

    let counts = counts(&folder.path().join("of-spoilt"));
    assert_eq!(counts["predict_spectra"], 40);
    assert_eq!(counts["predict_bad"], BAD.len() as u64);
    assert_eq!(counts["predict_pixels_masked"], 1);
    let notes = manifest(&folder.path().join("of-spoilt"))["notes"].to_string();
    assert!(
        notes.contains("10 of 40 spectra of ") && notes.contains("have no prediction"),
        "{notes}"
    );
    for (flag, name) in [
        (WRONG_LENGTH, "WRONG_LENGTH"),
        (FLUX_NOT_FINITE, "FLUX_NOT_FINITE"),
        (ID_NULL, "ID_NULL"),
    ] {
        let rows: Vec<usize> = BAD.iter().filter(|(_, of)| *of == flag).map(|(row, _)| *row).collect();
        let id = stars[rows[0]].id.as_deref().unwrap_or("null");
        let file = folder.path().join("spoilt").join(spoilt.text("file", rows[0]));
        let row = spoilt.whole("row", rows[0]);
        let said = format!(
            "(the first: id {id}, row {row} of {} (row group {}))",
            file.display(),
            row / 4
        );
        assert!(
            notes.contains(&format!("{} {name}, ", rows.len())) && notes.contains(&said),
            "{said}: {notes}"
        );
    }
    let clean_notes = manifest(&folder.path().join("of-clean"))["notes"].to_string();
    assert!(!clean_notes.contains("no prediction"), "{clean_notes}");
    assert!(
        spoilt.metadata["fisherflow.flags"].contains("NO_GOOD_PIXEL"),
        "the bits are named in the file"
    );
}

#[test]
fn bad_rows_of_the_fit_are_counted_and_not_in_the_sums() {
    let folder = prepared();
    let mut stars = simulated(PIXELS, 0, 120);
    let keep: Vec<Spectrum> = stars.clone();
    spoil(&mut stars);
    stars[30].labels[1] = None;
    stars[31].labels[2] = Some(f64::NAN);
    write_objects(&folder.path().join("spoilt"), &stars, 60);
    // The same without the rows that must not count; what only misses a label, or is masked, is left out of both to compare the sums.
    stars[MASKED] = keep[MASKED].clone();
    write_objects(&folder.path().join("spoilt-but-unmasked"), &stars, 60);
    let out: Vec<usize> = BAD.iter().map(|(row, _)| *row).chain([30, 31]).collect();
    let good: Vec<Spectrum> = keep
        .into_iter()
        .enumerate()
        .filter(|(row, _)| !out.contains(row))
        .map(|(_, s)| s)
        .collect();
    write_objects(&folder.path().join("good"), &good, 60);

    let fit = |catalogue: &str| {
        let mut run_file = RunFile::new(folder.path(), &format!("of-{catalogue}"));
        run_file.catalogue = folder.path().join(catalogue).to_str().unwrap().to_owned();
        run_file.compute.push_str("\nprecision = \"f64\"");
        carry_out(folder.path(), &run_file).expect_done();
        let output = folder.path().join(format!("of-{catalogue}"));
        (
            counts(&output),
            Table::read(&output.join("posterior/hessian")),
            Table::read(&output.join("predictions")),
        )
    };
    let (counted, _, table) = fit("spoilt");
    assert_eq!(counted["fit_spectra"], 120);
    assert_eq!(counted["fit_bad"], BAD.len() as u64);
    assert_eq!(
        counted["fit_bad"] + counted["fit_held_out"] + counted["fit_in_sums"] + counted["fit_unlabelled"],
        120,
        "{counted:?}"
    );
    let flags: Vec<i64> = (0..120).map(|row| table.whole("flags", row)).collect();
    assert_eq!(
        flags.iter().filter(|flags| *flags & IN_SUMS != 0).count() as u64,
        counted["fit_in_sums"]
    );
    assert_eq!(
        flags
            .iter()
            .filter(|flags| *flags & HELD_OUT != 0 && *flags & IN_SUMS != 0)
            .count(),
        0
    );
    for row in [30, 31] {
        assert_eq!(flags[row] & (LABEL_MISSING | IN_SUMS), LABEL_MISSING, "row {row}");
        assert!(
            !table.flag("flag_bad", row) && !table.is_null("teff", row),
            "a star without labels has a prediction"
        );
    }

    let (_, expected, _) = fit("good");
    let (_, found, _) = fit("spoilt-but-unmasked");
    assert_eq!(found.len(), expected.len());
    let mut largest = 0.0f64;
    for row in 0..found.len() {
        let (a, b) = (found.list("values", row), expected.list("values", row));
        let scale = b.iter().fold(0.0f64, |scale, v| scale.max(v.abs()));
        let apart = a.iter().zip(&b).fold(0.0f64, |apart, (a, b)| apart.max((a - b).abs()));
        largest = largest.max(apart / scale.max(f64::MIN_POSITIVE));
    }
    assert!(
        largest < 1e-11,
        "the sums differ by {largest:e} from those of the good rows alone"
    );
}

/// The number of pixels comes from the rows, whatever the lengths of bad ones add up to.
#[test]
fn lengths_that_add_up_to_another_number_of_pixels_do_not_mislead() {
    let folder = prepared();
    for (name, n, spoilt) in [
        ("double", PIXELS as u64, 2 * PIXELS),
        ("empty", PIXELS as u64, 0),
        ("null", PIXELS as u64 - 1, 1),
    ] {
        let mut stars = simulated(PIXELS, 300, n);
        match name {
            "null" => stars[4].flux = None,
            _ => stars[4].flux = Some(vec![1.0; spoilt]),
        }
        write_objects(&folder.path().join(name), &stars, 100);
        let (table, _) = predict(folder.path(), name);
        for row in 0..table.len() {
            assert_eq!(table.flag("flag_bad", row), row == 4, "{name}: row {row}");
        }
    }
}

#[test]
fn a_catalogue_without_a_usable_spectrum_is_told_of() {
    let folder = prepared();
    let stars = |spoilt: std::ops::Range<usize>| {
        let mut stars = simulated(PIXELS, 0, 120);
        for (row, star) in stars.iter_mut().enumerate().filter(|(row, _)| spoilt.contains(row)) {
            match row % 60 {
                0..20 => star.ivar = Some(vec![0.0; PIXELS]),
                _ => star.flux.as_mut().unwrap()[3] = f32::NAN,
            }
        }
        stars
    };
    write_objects(&folder.path().join("none"), &stars(0..120), 60);
    write_objects(&folder.path().join("few"), &stars(0..80), 60);

    // To predict: the run is done, and says so.
    for (name, said) in [("none", "none of the 120 spectra of "), ("few", "most spectra of ")] {
        let run_file = RunFile::new(folder.path(), &format!("of-{name}")).predicting(folder.path(), name);
        let ended = carry_out(folder.path(), &run_file);
        ended.expect_done();
        let notes = manifest(Path::new(&run_file.output))["notes"].to_string();
        for shown in [&notes, &ended.stdout, &ended.stderr] {
            assert!(
                shown.contains(said) && shown.contains("40 NO_GOOD_PIXEL, every pixel is masked"),
                "{shown}"
            );
        }
        assert!(ended.stderr.contains("WARN"), "{ended}");
    }

    // To fit: there is no noise, and the reason is not the labels.
    let held_out: Vec<usize> = {
        let table = Table::read(&predicted_of(folder.path()));
        (0..120)
            .filter(|&row| table.whole("flags", row) & HELD_OUT != 0)
            .collect()
    };
    let masked = held_out.iter().filter(|&row| row % 60 < 20).count();
    let mut run_file = RunFile::new(folder.path(), "fit");
    run_file.catalogue = folder.path().join("none").to_str().unwrap().to_owned();
    let stars = simulated(PIXELS, 0, 120);
    let first = held_out.iter().find(|&row| row % 60 >= 20).unwrap();
    let said = [
        format!(
            "no held-out spectrum with all its labels and a good flux, of {}",
            held_out.len()
        ),
        format!("{masked} NO_GOOD_PIXEL"),
        format!("{} FLUX_NOT_FINITE", held_out.len() - masked),
        format!(
            "(the first: id {}, row {} of {}",
            stars[*first].id.as_ref().unwrap(),
            first % 60,
            folder
                .path()
                .join(format!("none/part-0000{}.parquet", first / 60))
                .display()
        ),
    ];
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    refused(folder.path(), &run_file, 3, &said);
}

/// The predictions of a run over `<folder>/catalogue`.
fn predicted_of(folder: &Path) -> std::path::PathBuf {
    let run_file = RunFile::new(folder, "of-catalogue");
    carry_out(folder, &run_file).expect_done();
    Path::new(&run_file.output).join("predictions")
}
