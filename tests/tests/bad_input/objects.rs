//! Objects of a catalogue that cannot be read, or are not what the run file says.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use fisherflow_tests::{
    RunFile, Spectrum, broken_parquet, counts, manifest, parquet_bytes, simulated, toml_path, write_catalogue,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{PIXELS, carry_out, prepared, refused};

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join("catalogue").join(name), bytes).unwrap();
}

#[test]
fn an_object_that_cannot_be_read_is_named() {
    let whole = parquet_bytes(&simulated(PIXELS, 500, 30), 10);
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("empty", Vec::new(), "is empty (0 bytes)"),
        ("cut", whole[..whole.len() - 40].to_vec(), "is a truncated Parquet file"),
        ("half", whole[..whole.len() / 2].to_vec(), "is a truncated Parquet file"),
        ("text", b"id,flux\nstar-1,1.0\n".repeat(20), "is not a Parquet file"),
        ("short", b"PA".to_vec(), "is not a Parquet file"),
    ];
    for (name, bytes, said) in cases {
        let folder = prepared();
        let object = format!("part-00001-{name}.parquet");
        write(folder.path(), &object, &bytes);
        refused(folder.path(), &RunFile::new(folder.path(), "out"), 3, &[&object, said]);
        assert!(!folder.path().join("out").exists(), "{name}: nothing was written");
    }
}

#[test]
fn a_damaged_row_group_is_named_and_the_run_leaves_no_manifest() {
    let folder = prepared();
    write(
        folder.path(),
        "part-00002.parquet",
        &broken_parquet(&simulated(PIXELS, 500, 40), 10, 2),
    );
    let mut run_file = RunFile::new(folder.path(), "out");
    refused(
        folder.path(),
        &run_file,
        3,
        &["row group 2 of", "part-00002.parquet", "write it again"],
    );
    // The catalogue was planned with the object: it cannot be left out any more.
    run_file.of_catalogue = "on_bad_object = \"skip\"".to_owned();
    run_file.output.push_str("-skip");
    refused(folder.path(), &run_file, 3, &["row group 2 of", "part-00002.parquet"]);
}

#[test]
fn a_column_that_is_missing_or_of_another_type_is_named() {
    let folder = prepared();
    for (key, value, said) in [
        (
            "ivar",
            "ivars",
            vec![
                "part-00000.parquet",
                "has no column \"ivars\"",
                "did you mean \"ivar\"? (catalogue.ivar)",
            ],
        ),
        (
            "flux",
            "visit",
            vec!["part-00000.parquet", "column \"visit\"", "expected"],
        ),
        ("id", "flux", vec!["part-00000.parquet", "column \"flux\"", "expected"]),
    ] {
        let run_file = RunFile::new(folder.path(), "out");
        let toml = run_file
            .toml()
            .replace(&format!("{key} = \"{key}\""), &format!("{key} = \"{value}\""));
        let file = folder.path().join("wrong.toml");
        std::fs::write(&file, toml).unwrap();
        let ended = fisherflow_tests::run(fisherflow_tests::fisherflow().arg("run").arg(&file));
        ended.expect(3, &said);
        assert!(!folder.path().join("out").exists());
    }
}

#[test]
fn kept_columns_that_predictions_have_themselves_are_refused_before_any_work() {
    let folder = prepared();
    let run_file = RunFile::new(folder.path(), "out");
    let toml = run_file.toml().replace("[\"visit\"]", "[\"visit\", \"teff\"]");
    let file = folder.path().join("clash.toml");
    std::fs::write(&file, toml).unwrap();
    for command in ["plan", "run"] {
        let ended = fisherflow_tests::run(fisherflow_tests::fisherflow().arg(command).arg(&file));
        ended.expect(3, &["column \"teff\"", "a kept column", "a label", "keep_columns"]);
        assert!(!folder.path().join("out").exists(), "{command}: nothing was written");
    }
}

/// `file` and `row` are the key of every row: no identifier, kept column or label may be called so.
#[test]
fn names_of_the_key_of_a_row_are_refused_before_any_work() {
    let folder = prepared();
    let folder = folder.path();
    for (column, name) in [("visit", "row"), ("id", "File")] {
        let object = renamed(&simulated(PIXELS, 0, 60), column, name);
        std::fs::create_dir_all(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("a.parquet"), object).unwrap();
    }
    let of = |catalogue: &str| {
        let mut run_file = RunFile::new(folder, "out");
        run_file.catalogue = folder.join(catalogue).to_str().unwrap().to_owned();
        run_file.toml()
    };
    // As long as the name that is there.
    let network = std::fs::read(folder.join("network.safetensors")).unwrap();
    let at = network.windows(4).position(|bytes| bytes == b"logg").unwrap();
    let of_files = [&network[..at], b"file", &network[at + 4..]].concat();
    std::fs::write(folder.join("of-files.safetensors"), of_files).unwrap();
    let label = of("catalogue").replace("network.safetensors", "of-files.safetensors");
    for (toml, said) in [
        (
            of("row").replace("[\"visit\"]", "[\"row\"]"),
            ["column \"row\"", "a kept column", "leave it out of keep_columns"],
        ),
        (
            of("File").replace("id = \"id\"", "id = \"File\""),
            ["column \"file\"", "the identifier", "rename it in the catalogue"],
        ),
        (label, ["column \"file\"", "a label", "network.labels.names"]),
    ] {
        let file = folder.join("clash.toml");
        std::fs::write(&file, toml).unwrap();
        for command in ["plan", "run"] {
            let ended = fisherflow_tests::run(fisherflow_tests::fisherflow().arg(command).arg(&file));
            ended.expect(3, &said);
            assert!(!folder.join("out").exists(), "{command}: nothing was written");
        }
    }
}

/// As astropy writes a column of which something is masked: all that it holds, and beside it which of that is none.
#[test]
fn a_label_that_another_column_masks_is_refused() {
    let folder = prepared();
    let whole = parquet_bytes(&simulated(PIXELS, 500, 20), 20);
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(whole)).unwrap();
    let rows = reader.build().unwrap().next().unwrap().unwrap();
    let (mut fields, mut columns) = (rows.schema().fields().to_vec(), rows.columns().to_vec());
    fields.push(Arc::new(Field::new("logg.mask", DataType::Boolean, true)));
    let is_masked: BooleanArray = (0..rows.num_rows()).map(|row| Some(row == 7)).collect();
    columns.push(Arc::new(is_masked));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    write(folder.path(), "part-00009.parquet", &writer.into_inner().unwrap());
    let said = ["part-00009.parquet", "\"logg.mask\"", "write nulls in their place"];
    refused(folder.path(), &RunFile::new(folder.path(), "out"), 3, &said);
}

/// The same of a table of spectra to leave out, wherever it is in a folder of them: what stands under the mask is no identifier.
#[test]
fn identifiers_that_another_column_masks_are_refused() {
    let folder = prepared();
    let lists = folder.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["sim-1", "N/A"]));
    let is_masked: ArrayRef = Arc::new(BooleanArray::from(vec![false, true]));
    let plain = RecordBatch::try_from_iter([("id", Arc::clone(&ids))]).unwrap();
    let masked = RecordBatch::try_from_iter([("id", ids), ("id.mask", is_masked)]).unwrap();
    for (name, rows) in [("a.parquet", plain), ("b.parquet", masked)] {
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        std::fs::write(lists.join(name), writer.into_inner().unwrap()).unwrap();
    }
    let mut run_file = RunFile::new(folder.path(), "out");
    run_file.of_catalogue = format!("exclude = \"{}\"", toml_path(&lists));
    let said = ["b.parquet", "\"id.mask\"", "write nulls in their place"];
    refused(folder.path(), &run_file, 3, &said);
}

/// An object of these spectra with another name for one of its columns.
fn renamed(spectra: &[Spectrum], column: &str, name: &str) -> Vec<u8> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(parquet_bytes(spectra, 20))).unwrap();
    let fields = reader.schema().fields().iter().map(|field| {
        let field = field.as_ref().clone();
        if field.name() == column {
            field.with_name(name)
        } else {
            field
        }
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), None).unwrap();
    for batch in reader.build().unwrap() {
        let columns = batch.unwrap().columns().to_vec();
        writer
            .write(&RecordBatch::try_new(Arc::clone(&schema), columns).unwrap())
            .unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn objects_of_other_spectra_are_refused() {
    let folder = prepared();
    write_catalogue(
        &folder.path().join("catalogue"),
        "part-00007.parquet",
        &simulated(PIXELS + 1, 0, 20),
        20,
    );
    let run_file = RunFile::new(folder.path(), "out");
    refused(
        folder.path(),
        &run_file,
        3,
        &["part-00007.parquet", "25 pixels", "the network takes 24"],
    );
}

#[test]
fn a_catalogue_without_spectra_is_refused_and_an_object_without_rows_is_fine() {
    let folder = prepared();
    write_catalogue(&folder.path().join("catalogue"), "part-00003.parquet", &[], 20);
    carry_out(folder.path(), &RunFile::new(folder.path(), "out")).expect_done();
    assert_eq!(counts(&folder.path().join("out"))["fit_spectra"], 120);
    assert_eq!(manifest(&folder.path().join("out"))["inputs"][1]["objects"], 3);

    write_catalogue(&folder.path().join("nothing"), "part-00000.parquet", &[], 20);
    let mut run_file = RunFile::new(folder.path(), "none");
    run_file.catalogue = folder.path().join("nothing").to_str().unwrap().to_owned();
    refused(folder.path(), &run_file, 3, &["nothing", "holds no spectra"]);
}

#[test]
fn what_matches_nothing_is_named() {
    let folder = prepared();
    for pattern in ["catalogue/night-*.parquet", "catalog", "catalogue/part-00009.parquet"] {
        let mut run_file = RunFile::new(folder.path(), "out");
        run_file.catalogue = folder.path().join(pattern).to_str().unwrap().to_owned();
        refused(folder.path(), &run_file, 3, &["no object matches", pattern]);
    }
}

#[test]
fn skipped_objects_are_listed_in_the_manifest() {
    let folder = prepared();
    let whole = parquet_bytes(&simulated(PIXELS, 500, 30), 10);
    write(folder.path(), "part-00002.parquet", &[]);
    write(folder.path(), "part-00003.parquet", &whole[..whole.len() / 2]);
    // As many as there are of the network's pixels.
    for name in ["part-00004.parquet", "part-00005.parquet"] {
        let other = simulated(PIXELS + 1, 0, 20);
        write_catalogue(&folder.path().join("catalogue"), name, &other, 20);
    }
    let mut run_file = RunFile::new(folder.path(), "out");
    run_file.of_catalogue = "on_bad_object = \"skip\"".to_owned();
    let ended = carry_out(folder.path(), &run_file);
    ended.expect_done();
    let out = folder.path().join("out");
    let manifest = manifest(&out);
    let skipped = manifest["inputs"][1]["skipped"].as_array().unwrap();
    let said: Vec<String> = skipped
        .iter()
        .map(|s| format!("{} {}", s["object"], s["reason"]))
        .collect();
    assert_eq!(said.len(), 4, "{said:?}");
    for (said, (object, reason)) in said.iter().zip([
        ("part-00002.parquet", "0 bytes"),
        ("part-00003.parquet", "truncated"),
        ("part-00004.parquet", "25 pixels"),
        ("part-00005.parquet", "25 pixels"),
    ]) {
        assert!(said.contains(object) && said.contains(reason), "{said}");
        assert!(
            ended.stdout.contains(object),
            "the summary says what was left out\n{ended}"
        );
    }
    assert_eq!(counts(&out)["fit_spectra"], 120);
}
