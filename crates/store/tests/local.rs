//! The conformance suite on the local disk, and what only a disk does.

#[path = "support/conformance.rs"]
#[allow(dead_code, reason = "every test file uses its own part of it")]
mod conformance;
#[allow(dead_code, reason = "every test file uses its own part of it")]
mod support;

use fisherflow_store::*;

#[test]
fn the_disk_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 2).unwrap();
    conformance::conform(&stores, directory.path().to_str().unwrap());
}

#[test]
fn an_output_that_cannot_be_written_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let mut places = vec![format!("{}/out", file.display())];
    // Root may write anywhere but here.
    if std::path::Path::new("/proc/self").exists() {
        places.push("/proc/fisherflow-out".to_owned());
    }
    for place in places {
        let output = Output::open(&stores, &place).unwrap();
        let error = output.claim(&conformance::claim_of("r")).unwrap_err();
        assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
        assert!(error.to_string().contains(&place), "{error}");
        let mut writer = output
            .matrices(MatrixSet::Hessian, "l", &FileMetadata::default())
            .unwrap();
        writer
            .append(&MatrixRows {
                layer: "l",
                factor: "dense",
                rows: 1,
                cols: 1,
                values: &[1.0],
            })
            .unwrap();
        let error = writer.finish().unwrap_err();
        assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
    }
}

#[test]
fn a_file_that_is_given_up_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let output = Output::open(&stores, directory.path().join("out").to_str().unwrap()).unwrap();
    let mut writer = output
        .matrices(MatrixSet::Inverse, "l", &FileMetadata::default())
        .unwrap();
    writer
        .append(&MatrixRows {
            layer: "l",
            factor: "dense",
            rows: 1,
            cols: 1,
            values: &[1.0],
        })
        .unwrap();
    drop(writer);
    assert!(stores.list_all(output.uri()).unwrap().is_empty());
    // What a killed process leaves half written goes with the commit.
    output.claim(&conformance::claim_of("r")).unwrap();
    let staged = directory.path().join("out/predictions/part-00000.parquet#1");
    std::fs::create_dir_all(staged.parent().unwrap()).unwrap();
    std::fs::write(&staged, b"half").unwrap();
    output.commit(&conformance::manifest_of("r", vec![])).unwrap();
    assert!(!staged.exists());
    assert!(output.verify().unwrap().problems.is_empty());
}

/// Where the finished file cannot take its place, that is an error; nothing is aborted that was already ended.
#[test]
fn a_file_that_cannot_be_ended_is_an_error_and_no_panic() {
    static PANICKED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let io = std::thread::current().name() == Some("fisherflow-io");
        PANICKED.fetch_or(io, std::sync::atomic::Ordering::SeqCst);
        before(info);
    }));
    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let place = directory.path().join("out");
    let output = Output::open(&stores, place.to_str().unwrap()).unwrap();
    let mut writer = output
        .matrices(MatrixSet::Inverse, "l", &FileMetadata::default())
        .unwrap();
    writer
        .append(&MatrixRows {
            layer: "l",
            factor: "dense",
            rows: 1,
            cols: 1,
            values: &[1.0],
        })
        .unwrap();
    std::fs::create_dir_all(place.join("posterior/inverse/l.parquet/taken")).unwrap();
    assert!(writer.finish().is_err());
    // Whatever an abort would do, it does on the I/O thread: one more request there comes after it.
    assert!(!stores.exists(place.join("nothing").to_str().unwrap()).unwrap());
    drop(stores);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!PANICKED.load(std::sync::atomic::Ordering::SeqCst));
}
