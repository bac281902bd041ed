//! What is written, read back.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use fisherflow_spectra::RowFlags;
use fisherflow_store::*;
use parquet::file::reader::{FileReader, SerializedFileReader};
use tempfile::TempDir;

fn place() -> (TempDir, Stores, Output) {
    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 2).unwrap();
    let uri = directory.path().join("out").to_str().unwrap().to_owned();
    let output = Output::open(&stores, &uri).unwrap();
    (directory, stores, output)
}

fn part(number: u64) -> TablePart {
    TablePart { number, of: number + 1 }
}

fn rows() -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("apogee_id", DataType::Utf8, true),
        Field::new("snr", DataType::Float32, true),
    ]);
    let ids = StringArray::from(vec!["a", "b", "c"]);
    let snr = Float32Array::from(vec![Some(100.0), None, Some(30.0)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(snr)]).unwrap()
}

const KEYS: RowKeys<'static> = RowKeys {
    file: "night=1/a.parquet",
    first_row: 7,
};

fn labels() -> Vec<String> {
    vec!["teff".into(), "logg".into()]
}

fn one(stores: &Stores, uri: &str) -> RecordBatch {
    let mut batches = Table::open(stores, uri).unwrap().batches(None, 1000).unwrap();
    let batch = batches.next().unwrap().unwrap();
    assert!(batches.next().is_none());
    batch
}

/// `file` and `row` of every row.
fn keys(batch: &RecordBatch) -> Vec<(String, i64)> {
    let (files, rows) = (
        batch["file"].as_string::<i32>(),
        batch["row"].as_primitive::<Int64Type>(),
    );
    files
        .iter()
        .flatten()
        .map(str::to_owned)
        .zip(rows.values().iter().copied())
        .collect()
}

#[test]
fn predictions_have_the_columns_of_the_contract() {
    let (_directory, stores, output) = place();
    let schema = PredictionSchema::new(&rows().schema(), &labels()).unwrap();
    let metadata = FileMetadata::default().with("fisherflow.run_id", "r");
    let mut writer = output.predictions(part(3), &schema, &metadata).unwrap();
    let parts: [Vec<f64>; 3] = [
        [3.0, 0.5, 0.5, 1.0].repeat(3),
        [0.5, 0.25, 0.25, 2.0].repeat(3),
        [0.5, 0.25, 0.25, 1.0].repeat(3),
    ];
    let total: Vec<f64> = (0..12).map(|i| parts.iter().map(|p| p[i]).sum()).collect();
    let batch = PredictionRows {
        keys: KEYS,
        rows: &rows(),
        labels: &[5000.0, 2.5, 0.0, 0.0, f64::NAN, 2.5],
        covariance: &total,
        flux: &parts[0],
        weights: &parts[1],
        intrinsic: &parts[2],
        n_pix_good: &[10, 0, 9],
        flags: &[RowFlags::PIXELS_MASKED, RowFlags::FLUX_NULL, RowFlags::NONE],
    };
    writer.append(&batch).unwrap();
    let short = PredictionRows {
        labels: &[1.0],
        ..batch
    };
    assert!(matches!(writer.append(&short).unwrap_err(), StoreError::Shape { .. }));
    assert_eq!(writer.n_bad(), 2);
    let file = writer.finish().unwrap();
    assert_eq!((file.path.as_str(), file.rows), ("predictions/part-00003.parquet", 3));
    let table = Table::open(&stores, &output.child("predictions")).unwrap();
    let names: Vec<&str> = table.schema().fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(
        names,
        [
            "apogee_id",
            "file",
            "row",
            "snr",
            "teff",
            "e_teff",
            "logg",
            "e_logg",
            "rho_teff_logg",
            "cov",
            "cov_flux",
            "cov_weights",
            "cov_intrinsic",
            "n_pix_good",
            "flags",
            "flag_bad"
        ]
    );
    assert_eq!(table.metadata().0["fisherflow.run_id"], "r");
    assert!(table.metadata().0["fisherflow.flags"].contains("FLUX_NOT_FINITE"));
    assert!(table.metadata().0["fisherflow.row_key"].contains("below the catalogue's folder"));
    let read = one(&stores, &output.child("predictions"));
    assert_eq!(keys(&read), [7, 8, 9].map(|row| ("night=1/a.parquet".to_owned(), row)));
    let number = |name: &str| read[name].as_primitive::<Float64Type>().clone();
    assert_eq!(number("e_teff").value(0), 2.0);
    assert_eq!(number("rho_teff_logg").value(0), 1.0 / 4.0);
    for name in ["teff", "e_logg", "rho_teff_logg"] {
        assert_eq!(
            number(name).nulls().unwrap().iter().collect::<Vec<_>>(),
            [true, false, false]
        );
    }
    let cov = read["cov"].as_list::<i32>();
    assert_eq!(cov.value(0).as_primitive::<Float64Type>().values()[..], total[..4]);
    assert!(cov.is_null(1) && cov.is_null(2));
    assert_eq!(read["n_pix_good"].as_primitive::<Int32Type>().values()[..], [10, 0, 9]);
    let flags = read["flags"].as_primitive::<Int64Type>();
    assert_eq!(flags.value(2), RowFlags::RESULT_NOT_FINITE.bits());
    assert!(!read["flag_bad"].as_boolean().value(0) && read["flag_bad"].as_boolean().value(2));
}

/// `e = sqrt(C_kk)` and `rho = C_ab / (e_a e_b)`, one a pair in order; of a variance of 0 there is no correlation.
#[test]
fn errors_and_correlations_are_those_of_the_covariance() {
    let (_directory, stores, output) = place();
    let labels: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let schema = PredictionSchema::new(&rows().schema(), &labels).unwrap();
    let mut writer = output.predictions(part(0), &schema, &FileMetadata::default()).unwrap();
    let regular = [4.0, 1.0, 3.0, 1.0, 16.0, -6.0, 3.0, -6.0, 9.0];
    let without_b = [4.0, 0.0, 3.0, 0.0, 0.0, 0.0, 3.0, 0.0, 9.0];
    let flux = [regular, without_b, [f64::NAN; 9]].concat();
    let batch = PredictionRows {
        keys: KEYS,
        rows: &rows(),
        labels: &[1.0; 9],
        covariance: &flux,
        flux: &flux,
        weights: &[0.0; 27],
        intrinsic: &[0.0; 27],
        n_pix_good: &[9; 3],
        flags: &[RowFlags::NONE; 3],
    };
    writer.append(&batch).unwrap();
    writer.finish().unwrap();
    let read = one(&stores, &output.child("predictions"));
    for (name, expected) in [
        ("e_a", [Some(2.0), Some(2.0), None]),
        ("e_b", [Some(4.0), Some(0.0), None]),
        ("e_c", [Some(3.0), Some(3.0), None]),
        ("rho_a_b", [Some(0.125), None, None]),
        ("rho_a_c", [Some(0.5), Some(0.5), None]),
        ("rho_b_c", [Some(-0.5), None, None]),
    ] {
        let found: Vec<Option<f64>> = read[name].as_primitive::<Float64Type>().iter().collect();
        assert_eq!(found, expected, "{name}");
    }
}

/// A variance below 0 is a difference that was lost: no error of 0. What rounding leaves of parts that cancel is one.
#[test]
fn a_variance_below_0_is_no_prediction() {
    let (_directory, _stores, output) = place();
    let schema = PredictionSchema::new(&rows().schema(), &labels()).unwrap();
    let mut writer = output.predictions(part(0), &schema, &FileMetadata::default()).unwrap();
    let flux = [1.0, 0.0, 0.0, 1.0].repeat(3);
    let weights = [[1.0, 0.0, 0.0, 1.0], [-2.0, 0.0, 0.0, 1.0], [-1.0, 0.0, 0.0, -1e-14]].concat();
    let total: Vec<f64> = flux.iter().zip(&weights).map(|(a, b)| a + b).collect();
    let flags = writer
        .append(&PredictionRows {
            keys: KEYS,
            rows: &rows(),
            labels: &[1.0; 6],
            covariance: &total,
            flux: &flux,
            weights: &weights,
            intrinsic: &[0.0; 12],
            n_pix_good: &[9; 3],
            flags: &[RowFlags::NONE; 3],
        })
        .unwrap();
    let lost = RowFlags::RESULT_NOT_FINITE;
    assert_eq!(flags, [RowFlags::NONE, lost, lost]);
}

#[test]
fn columns_are_not_written_twice() {
    let schema = |names: &[&str]| {
        let field = |name: &&str| Field::new(*name, DataType::Utf8, true);
        Schema::new(names.iter().map(field).collect::<Vec<_>>())
    };
    let refused = |names: &[&str], labels: &[&str]| {
        let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        PredictionSchema::new(&schema(names), &labels).unwrap_err().to_string()
    };
    let labels = ["teff", "logg"];
    for (kept, reason) in [
        ("teff", "a label"),
        ("E_Teff", "the error"),
        ("Flags", "the flags"),
        ("APOGEE_ID", "the identifier"),
        ("File", "the file of a row"),
        ("row", "the position of a row in its file"),
    ] {
        let error = refused(&["apogee_id", kept], &labels);
        for said in [reason, "a kept column", "leave it out of keep_columns"] {
            assert!(error.contains(said), "{error}");
        }
    }
    for id in ["row", "FILE", "flags", "logg"] {
        let error = refused(&[id], &labels);
        assert!(
            error.contains("the identifier") && error.ends_with("rename it in the catalogue"),
            "{error}"
        );
    }
    for label in ["file", "Row", "cov", "teff"] {
        let error = refused(&["apogee_id"], &["teff", label]);
        assert!(
            error.contains("a label") && error.contains("network.labels.names"),
            "{error}"
        );
    }
    let labels = labels.map(str::to_owned);
    for id in ["label", "Jacobian", "file", "row"] {
        let error = JacobianSchema::new(&schema(&[id]), &labels, 3).unwrap_err().to_string();
        assert!(error.contains(id) && error.contains("the identifier"), "{error}");
    }
    assert!(JacobianSchema::new(&schema(&[]), &labels, 3).is_err());
}

/// A row group names its file once, however many batches it is written in.
#[test]
fn a_files_name_is_stored_once() {
    let (directory, _stores, output) = place();
    let name = "n".repeat(1000);
    let size = |n_batches: u64, file: &str| {
        let schema = JacobianSchema::new(&rows().schema(), &labels(), 4).unwrap();
        let mut writer = output
            .jacobians(part(n_batches), &schema, &FileMetadata::default())
            .unwrap();
        for batch in 0..n_batches {
            writer
                .append(&JacobianRows {
                    keys: RowKeys {
                        file,
                        first_row: 3 * batch,
                    },
                    rows: &rows(),
                    jacobian: &[0.5; 24],
                    flags: &[RowFlags::NONE; 3],
                })
                .unwrap();
        }
        writer.finish().unwrap();
        let file = directory
            .path()
            .join("out/jacobians")
            .join(format!("part-{n_batches:05}.parquet"));
        let reader = SerializedFileReader::new(std::fs::File::open(file).unwrap()).unwrap();
        let columns = reader.metadata().row_group(0);
        assert_eq!(
            (reader.metadata().num_row_groups(), columns.num_rows()),
            (1, 6 * n_batches as i64)
        );
        assert_eq!(columns.column(1).column_path().string(), "file");
        columns.column(1).uncompressed_size()
    };
    // The name, 1,000 bytes with its length, is in the dictionary; what is beside it is counts and indices.
    let (few, many) = (size(2, &name), size(50, &name));
    assert!(few >= 1004 && many < 1004 + 200, "{few} {many}");
}

#[test]
fn jacobians_have_a_row_a_spectrum_and_label() {
    let (_directory, stores, output) = place();
    let schema = JacobianSchema::new(&rows().schema(), &labels(), 4).unwrap();
    let mut writer = output.jacobians(part(0), &schema, &FileMetadata::default()).unwrap();
    let jacobian: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let flags = [RowFlags::NONE, RowFlags::NO_GOOD_PIXEL, RowFlags::HELD_OUT];
    writer
        .append(&JacobianRows {
            keys: KEYS,
            rows: &rows(),
            jacobian: &jacobian,
            flags: &flags,
        })
        .unwrap();
    assert_eq!(writer.finish().unwrap().rows, 6);
    let read = one(&stores, &output.child("jacobians"));
    let ids: Vec<_> = read["apogee_id"].as_string::<i32>().iter().flatten().collect();
    assert_eq!(ids, ["a", "a", "b", "b", "c", "c"]);
    assert_eq!(
        keys(&read),
        [7, 7, 8, 8, 9, 9].map(|row| ("night=1/a.parquet".to_owned(), row))
    );
    assert_eq!(
        read.schema()
            .fields()
            .iter()
            .map(|f| f.name().as_str())
            .collect::<Vec<_>>(),
        ["apogee_id", "file", "row", "label", "jacobian"]
    );
    let labels: Vec<_> = read["label"].as_string::<i32>().iter().flatten().collect();
    assert_eq!(labels[..2], ["teff", "logg"]);
    let lists = read["jacobian"].as_list::<i32>();
    assert!(lists.is_null(2) && lists.is_null(3));
    // [K, n, D]: label 1 of spectrum 2.
    assert_eq!(
        lists.value(5).as_primitive::<Float32Type>().values()[..],
        [20.0, 21.0, 22.0, 23.0]
    );
}

#[test]
fn matrices_come_back_bit_for_bit() {
    let (_directory, stores, output) = place();
    // Several record batches and a factor without rows.
    let (n, m) = (1500, 1001);
    let matrix = |factor: &str, rows: usize, cols: usize, values: Vec<f64>| StoredMatrix {
        layer: "layers.0".to_owned(),
        factor: factor.to_owned(),
        rows,
        cols,
        values,
    };
    let written = [
        matrix("kron_a", n, m, (0..n * m).map(|i| (i as f64).sin() * 1e-300).collect()),
        matrix("empty", 0, 3, Vec::new()),
        matrix("a_eigenvalues", 1, 3, vec![f64::MIN_POSITIVE, -0.0, 3.5]),
    ];
    let metadata = FileMetadata::default().with("fisherflow.block", "{}");
    let mut writer = output.matrices(MatrixSet::Inverse, "layers.0", &metadata).unwrap();
    for matrix in &written {
        let whole = (matrix.cols, matrix.values.as_slice());
        writer
            .append_tiles(&matrix.layer, &matrix.factor, matrix.rows, &[whole])
            .unwrap();
    }
    let file = writer.finish().unwrap();
    assert_eq!(file.path, "posterior/inverse/layers.0.parquet");
    let read = output.read_matrices(MatrixSet::Inverse, "layers.0").unwrap();
    assert_eq!(read.metadata.0["fisherflow.block"], "{}");
    assert_eq!(read.matrices.len(), 3);
    for (a, b) in written.iter().zip(&read.matrices) {
        assert_eq!(
            (&a.layer, &a.factor, a.rows, a.cols),
            (&b.layer, &b.factor, b.rows, b.cols)
        );
        assert!(a.values.iter().zip(&b.values).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(b.values.len(), b.rows * b.cols);
    }
    let error = output.read_matrices(MatrixSet::Hessian, "layers.0").unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    let read = Table::open(&stores, &output.child("posterior/inverse/*.parquet")).unwrap();
    assert_eq!(read.n_rows(), 1501);
}

#[test]
fn weights_come_back() {
    let (_directory, stores, output) = place();
    let mut writer = output.marginal_variance("l", &FileMetadata::default()).unwrap();
    let layer = MarginalRows {
        layer: "l",
        rows: 2,
        inputs: 2,
        cols: 3,
        value: &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        variance: &[4.0, 4.0, 9.0, 4.0, -1.0, 16.0],
    };
    writer.append(&layer).unwrap();
    let without_bias = MarginalRows {
        rows: 1,
        inputs: 2,
        cols: 2,
        value: &[7.0, 8.0],
        variance: &[1.0, 25.0],
        ..layer
    };
    writer.append(&without_bias).unwrap();
    assert_eq!(writer.finish().unwrap().rows, 8);
    let path = output.child("posterior/marginal_variance/l.parquet");
    let table = Table::open(&stores, &path).unwrap();
    let said = &table.metadata().0["fisherflow.marginal_variance"];
    assert!(said.contains("value: the weight;") && said.contains("std_error: the root of its marginal variance"));
    let read = one(&stores, &path);
    let inputs: Vec<_> = read["in_index"].as_primitive::<Int64Type>().iter().collect();
    assert_eq!(
        inputs,
        [Some(0), Some(1), None, Some(0), Some(1), None, Some(0), Some(1)]
    );
    let errors: Vec<_> = read["std_error"].as_primitive::<Float64Type>().iter().collect();
    assert_eq!(
        errors[..6],
        [Some(2.0), Some(2.0), Some(3.0), Some(2.0), None, Some(4.0)]
    );
    assert_eq!(errors[6..], [Some(1.0), Some(5.0)]);
}

#[test]
fn small_tables_come_back() {
    let (_directory, stores, output) = place();
    let (path, metadata) = ("posterior/evidence.parquet", FileMetadata::default());
    let mut columns = vec![
        ("structure", Column::Text(vec!["kfac".into(), "block".into()])),
        ("layer", Column::TextOrNull(vec![None, Some("layers.0".into())])),
        ("n_spectra", Column::Count(vec![100, 3])),
        ("log_evidence", Column::Number(vec![-3.0, f64::NEG_INFINITY])),
        ("prior_precision", Column::Finite(vec![0.1, 1e300])),
    ];
    let written = output.write_small_table(path, columns.clone(), &metadata).unwrap();
    assert_eq!((written.path.as_str(), written.rows), (path, 2));
    let read = one(&stores, &output.child(path));
    let texts = |name: &str| read[name].as_string::<i32>().iter().collect::<Vec<_>>();
    assert_eq!(texts("structure"), [Some("kfac"), Some("block")]);
    assert_eq!(texts("layer"), [None, Some("layers.0")]);
    assert_eq!(read["n_spectra"].as_primitive::<Int64Type>().values()[..], [100, 3]);
    let numbers = |name: &str| read[name].as_primitive::<Float64Type>().iter().collect::<Vec<_>>();
    assert_eq!(numbers("log_evidence"), [Some(-3.0), None]);
    assert_eq!(numbers("prior_precision"), [Some(0.1), Some(1e300)]);
    let nullable: Vec<bool> = read.schema().fields().iter().map(|field| field.is_nullable()).collect();
    assert_eq!(nullable, [false, true, false, true, false]);

    columns[4].1 = Column::Finite(vec![0.1, f64::NAN]);
    let refused = output.write_small_table(path, columns.clone(), &metadata).unwrap_err();
    assert!(refused.to_string().contains(path), "{refused}");
    columns[4].1 = Column::Finite(vec![0.1]);
    let refused = output.write_small_table(path, columns, &metadata).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Shape { what, found: 1, expected: 2 } if what.contains("prior_precision")),
        "{refused}"
    );
}

#[test]
fn cells_read_back() {
    let (_directory, stores, output) = place();
    let metadata = FileMetadata::default();
    let first = labels()[0].clone();
    let cell = |low, high, own| IntrinsicRow {
        intervals: vec![(low, high)],
        n_spectra: 70,
        own,
        covariance: vec![1.0, 0.0, 0.0, 2.0],
        vanishing: 0,
    };
    let cells = [cell(None, Some(4000.0), true), cell(Some(4000.0), None, false)];
    let written = output.write_intrinsic(&labels()[..1], &cells, &metadata).unwrap();
    assert_eq!(written.path, "posterior/intrinsic.parquet");
    let read = one(&stores, &output.child("posterior/intrinsic.parquet"));
    let column = |name: String| read[&name].as_primitive::<Float64Type>().iter().collect::<Vec<_>>();
    assert_eq!(column(format!("{first}_low")), [None, Some(4000.0)]);
    assert_eq!(column(format!("{first}_high")), [Some(4000.0), None]);
    let own: Vec<Option<bool>> = read["own"].as_boolean().iter().collect();
    assert_eq!(own, [Some(true), Some(false)]);
}

#[test]
fn the_same_rows_make_the_same_bytes() {
    let (_directory, _stores, output) = place();
    let write = |number| {
        let schema = JacobianSchema::new(&rows().schema(), &labels(), 4).unwrap();
        let mut writer = output
            .jacobians(part(number), &schema, &FileMetadata::default())
            .unwrap();
        let rows = rows();
        let batch = JacobianRows {
            keys: KEYS,
            rows: &rows,
            jacobian: &[0.5; 24],
            flags: &[RowFlags::NONE; 3],
        };
        writer.append(&batch).unwrap();
        writer.finish().unwrap().sha256
    };
    assert_eq!(write(0), write(1));
}

#[test]
fn the_verifier_agrees_with_the_writer() {
    let (_directory, _stores, output) = place();
    let claim = Claim {
        run_id: "r".into(),
        host: "h".into(),
        pid: 1,
        started: now_utc(),
        machine: String::new(),
        born: 0,
        beat: 0,
    };
    output.claim(&claim, false).unwrap();
    let empty = vec![("prior_precision", Column::Finite(Vec::new()))];
    let evidence = output
        .write_small_table("posterior/evidence.parquet", empty, &FileMetadata::default())
        .unwrap();
    let manifest = Manifest {
        version: Manifest::VERSION,
        fisherflow: "0".into(),
        run_id: "r".into(),
        created: now_utc(),
        inputs: vec![],
        counts: [].into(),
        files: vec![evidence],
        settings: serde_json::Value::Null,
        notes: vec![],
    };
    output.commit(&manifest).unwrap();
    assert_eq!(output.verify().unwrap().problems, Vec::<String>::new());
}
