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
        let error = output.claim(&conformance::claim_of("r"), false).unwrap_err();
        assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
        assert!(error.to_string().contains(&place), "{error}");
        let mut writer = output
            .matrices(MatrixSet::Hessian, "l", &FileMetadata::default())
            .unwrap();
        conformance::append_one(&mut writer);
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
    conformance::append_one(&mut writer);
    drop(writer);
    assert!(stores.list_all(output.uri()).unwrap().is_empty());
    // What a killed process leaves half written goes with the commit.
    output.claim(&conformance::claim_of("r"), false).unwrap();
    let staged = directory.path().join("out/predictions/part-00000.parquet#1");
    std::fs::create_dir_all(staged.parent().unwrap()).unwrap();
    std::fs::write(&staged, b"half").unwrap();
    output.commit(&conformance::manifest_of("r", vec![])).unwrap();
    assert!(!staged.exists());
    assert!(output.verify().unwrap().problems.is_empty());
}

#[test]
fn an_output_in_a_folder_of_a_half_written_name_keeps_its_tables() {
    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let place = directory.path().join("night.parquet#2/out");
    let output = Output::open(&stores, place.to_str().unwrap()).unwrap();
    output.claim(&conformance::claim_of("r"), false).unwrap();
    let written = output.put("predictions/part-00000.parquet", vec![1, 2]).unwrap();
    let staged = output.child("predictions/part-00001.parquet#1");
    std::fs::write(&staged, b"half").unwrap();
    output.commit(&conformance::manifest_of("r", vec![written])).unwrap();
    assert!(stores.exists(&output.child("predictions/part-00000.parquet")).unwrap());
    assert!(!std::path::Path::new(&staged).exists());
}

#[test]
fn half_written_sums_of_a_line_go_once_they_are_old() {
    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let line = Line::open(&stores, directory.path().join("line").to_str().unwrap()).unwrap();
    line.pin_basis(b"basis".to_vec()).unwrap();
    let folder = directory.path().join("line/groups/curvature");
    std::fs::create_dir_all(&folder).unwrap();
    let hour = std::time::Duration::from_secs(3600);
    for (name, age) in [("c1-7.sums#1", 2), ("c2-7.sums#1", 0), ("notes#two", 2)] {
        let file = std::fs::File::create(folder.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - hour * age).unwrap();
    }
    let retention = Retention {
        keep: None,
        grace: hour,
    };
    let remove = || {
        let garbage = line.garbage(retention).unwrap();
        line.remove(&garbage, &conformance::claim_of("gc")).unwrap()
    };
    let left = || {
        let names = std::fs::read_dir(&folder).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    // A run that is at work may be about to end its own.
    let claim = format!("{}/claim.json", line.release_uri(1));
    stores.write(&claim, b"claimed".to_vec()).unwrap();
    remove();
    assert_eq!(left(), ["c1-7.sums#1", "c2-7.sums#1", "notes#two"]);
    stores.delete(&claim).unwrap();
    remove();
    assert_eq!(left(), ["c2-7.sums#1", "notes#two"]);
}

#[cfg(unix)]
#[test]
fn only_the_empty_folders_of_a_line_go() {
    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let line = Line::open(&stores, directory.path().join("line").to_str().unwrap()).unwrap();
    line.pin_basis(b"basis".to_vec()).unwrap();
    let at = |name: &str| directory.path().join(name);
    for folder in [
        "elsewhere/empty",
        "line/notes",
        "line/groups/curvature/empty",
        "line/releases/1",
    ] {
        std::fs::create_dir_all(at(folder)).unwrap();
    }
    std::os::unix::fs::symlink(at("elsewhere"), at("line/groups/linked")).unwrap();
    std::os::unix::fs::symlink(at("elsewhere"), at("line/commits")).unwrap();
    line.remove(&Garbage::default(), &conformance::claim_of("gc")).unwrap();
    for (folder, stays) in [
        ("elsewhere/empty", true),
        ("line/notes", true),
        ("line/groups/linked", true),
        ("line/groups/curvature", false),
        ("line/releases", false),
    ] {
        assert_eq!(at(folder).exists(), stays, "{folder}");
    }
}

/// What a run that is at work has just made may be empty still.
#[test]
fn beside_a_run_at_work_no_empty_folder_goes_but_those_of_releases_that_go() {
    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let line = Line::open(&stores, directory.path().join("line").to_str().unwrap()).unwrap();
    line.pin_basis(b"basis".to_vec()).unwrap();
    let at = |name: &str| directory.path().join("line").join(name);
    for folder in [
        "releases/1/stages",
        "releases/2/stages/bases",
        "groups/curvature",
        "commits",
    ] {
        std::fs::create_dir_all(at(folder)).unwrap();
    }
    let hour = std::time::Duration::from_secs(3600);
    for (path, age) in [("releases/1/stages/fit.json", 2), ("releases/2/claim.json", 0)] {
        let file = std::fs::File::create(at(path)).unwrap();
        file.set_modified(std::time::SystemTime::now() - hour * age).unwrap();
    }
    let retention = Retention {
        keep: None,
        grace: hour,
    };
    let garbage = line.garbage(retention).unwrap();
    assert_eq!(
        (garbage.abandoned.clone(), garbage.in_the_making.clone()),
        (vec![1], vec![2])
    );
    let removed = line.remove(&garbage, &conformance::claim_of("gc")).unwrap();
    assert_eq!((removed.objects, removed.spared.len()), (1, 0), "{removed:?}");
    for (folder, stays) in [
        ("releases/1", false),
        ("releases/2/stages/bases", true),
        ("groups/curvature", true),
        ("commits", true),
    ] {
        assert_eq!(at(folder).exists(), stays, "{folder}");
    }
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
    conformance::append_one(&mut writer);
    std::fs::create_dir_all(place.join("posterior/inverse/l.parquet/taken")).unwrap();
    assert!(writer.finish().is_err());
    // Whatever an abort would do, it does on the I/O thread: one more request there comes after it.
    assert!(!stores.exists(place.join("nothing").to_str().unwrap()).unwrap());
    drop(stores);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!PANICKED.load(std::sync::atomic::Ordering::SeqCst));
}

/// A catalogue of one file of three row groups, last changed long ago, and the bytes of another of the same size.
fn old_file(folder: &std::path::Path) -> (std::path::PathBuf, Vec<u8>) {
    let of = |first| support::parquet(support::plain(first, 12, 40), 4);
    let (file, other) = (folder.join("a.parquet"), of(100));
    std::fs::write(&file, of(0)).unwrap();
    let opened = std::fs::File::options().write(true).open(&file).unwrap();
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    opened.set_modified(past).unwrap();
    (file, other)
}

/// Reads one row, lets `act` happen to the file, and reads on: whatever comes is of the old version, and the end is an error.
fn expect_no_mixture(act: impl Fn(&std::path::Path, &[u8])) {
    let directory = tempfile::tempdir().unwrap();
    let (file, other) = old_file(directory.path());
    let stores = Stores::new(StoreOptions::default(), 2).unwrap();
    let uri = file.to_str().unwrap();
    let catalogue = Catalogue::open(&stores, uri, &support::columns(), OnBadObject::Fail).unwrap();
    let group = fisherflow_spectra::plan_groups(catalogue.shards().to_vec(), 100, catalogue.folder()).remove(0);
    let mut fetch = catalogue.fetch(&group, 1, 1);
    let mut rows = vec![fetch.next().unwrap().unwrap()];
    act(&file, &other);
    let error = fetch
        .find_map(|batch| match batch {
            Ok(batch) => {
                rows.push(batch);
                None
            }
            Err(error) => Some(error),
        })
        .expect("the file is another one");
    let told = match &error {
        StoreError::Replaced { object, planned, found } => object == uri && planned != found,
        StoreError::NotFound { uri: object } => object == uri && !file.exists(),
        _ => false,
    };
    assert!(told, "{error}");
    assert!(rows.len() < 12);
    for (i, batch) in rows.iter().enumerate() {
        assert_eq!(batch.flux[0], f64::from(support::flux(i, 0)), "row {i}");
    }
}

#[test]
fn a_file_that_is_replaced_or_written_over_is_never_mixed() {
    expect_no_mixture(|file, other| {
        let beside = file.with_extension("new");
        std::fs::write(&beside, other).unwrap();
        std::fs::rename(beside, file).unwrap();
    });
    expect_no_mixture(|file, other| std::fs::write(file, other).unwrap());
    expect_no_mixture(|file, _| std::fs::remove_file(file).unwrap());
}

#[test]
fn what_a_killed_writer_left_beside_a_document_is_not_read_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let output = Output::open(&stores, directory.path().join("out").to_str().unwrap()).unwrap();
    std::fs::create_dir_all(output.uri()).unwrap();
    for staged in ["claim.json#1", "manifest.json#1", "notes#1"] {
        std::fs::write(output.child(staged), b"half").unwrap();
    }
    assert!(output.claim(&conformance::claim_of("r"), false).unwrap().is_some());
    output.commit(&conformance::manifest_of("r", vec![])).unwrap();
    assert!(!std::path::Path::new(&output.child("claim.json#1")).exists());
    assert!(!std::path::Path::new(&output.child("manifest.json#1")).exists());
    // Not ours.
    assert!(std::path::Path::new(&output.child("notes#1")).exists());
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_listed_is_not_an_empty_one() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let stores = Stores::new(StoreOptions::default(), 1).unwrap();
    let folder = |name: &str| {
        let folder = directory.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    };
    let refused = |folder: &std::path::Path, said: &str| {
        for pattern in ["", "/*.parquet", "/**"] {
            let error = stores.list(&format!("{}{pattern}", folder.display())).unwrap_err();
            let error = format!("{error}: {}", std::error::Error::source(&error).unwrap());
            assert!(
                error.contains(folder.to_str().unwrap()) && error.contains(said),
                "{error}"
            );
        }
    };
    // What nobody can follow.
    let looped = folder("looped");
    std::os::unix::fs::symlink("a.parquet", looped.join("a.parquet")).unwrap();
    refused(&looped, "symbolic link");
    // What the owner may not read; root may.
    let closed = folder("closed");
    std::fs::write(closed.join("a.parquet"), b"x").unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read_dir(&closed).is_err() {
        refused(&closed, "may not be listed");
        refused(&closed, "ermission denied");
    } else {
        println!("skipped: this user may read every folder");
    }
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
}
