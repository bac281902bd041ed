//! What every store must do; run on the local disk and on S3.

#[path = "lines.rs"]
mod lines;

use std::sync::Barrier;

use fisherflow_spectra::{RowFlags, Simulation, plan_groups};
use fisherflow_store::*;

use super::support::{columns, flux, parquet, plain};

/// Runs the suite under `base`, an empty place.
pub fn conform(stores: &Stores, base: &str) {
    objects(stores, &format!("{base}/objects"));
    conditional_creation(stores, &format!("{base}/create"));
    catalogues(stores, &format!("{base}/catalogue"));
    replaced_objects(stores, &format!("{base}/replaced"));
    claims(stores, &format!("{base}/claims"));
    outputs(stores, &format!("{base}/output"));
    large_files(stores, &format!("{base}/large"));
    lines::conform(stores, &format!("{base}/lines"));
    groups(stores, &format!("{base}/groups"));
}

/// Finished groups: whoever is first counts, a lost answer does no harm, and nothing is left of a second attempt.
fn groups(stores: &Stores, base: &str) {
    let store = GroupStore::new(stores, base);
    let names = std::collections::BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    assert!(store.finished("pass", &names).unwrap().is_empty());
    assert!(store.record("pass", "a").unwrap().is_none());
    let sums: Vec<f64> = (0..SLICE + 3).map(|i| (i as f64).sqrt()).collect();
    let arrays = || {
        let array = |key, purpose, values| GroupArray {
            key,
            purpose,
            n_spectra: 7,
            values,
        };
        vec![
            array(3, Purpose::Sum, sums.clone()),
            array(9, Purpose::Keep, vec![f64::NAN, -0.0]),
        ]
    };
    let commit = |name: &str, attempt: &str, arrays| {
        let found = serde_json::json!({ "n": 7, "x": 0.1 });
        let committing = store
            .commit("pass", name, attempt, 0, (arrays, Vec::new(), found), || ())
            .unwrap();
        committing.wait().unwrap()
    };
    let first = commit("a", "1", arrays());
    assert_eq!(first.record.object.as_deref(), Some("a-1.sums"));
    assert!(first.bytes > 8 * (SLICE as u64 + 5));
    assert_eq!(first.record.found["x"], 0.1);
    // The answer to the first request was lost, and it is made again: what it wrote stays.
    assert_eq!(commit("a", "1", arrays()).record, first.record);
    // Another attempt takes the first one's, and leaves nothing.
    assert_eq!(commit("a", "2", arrays()).record, first.record);
    assert_eq!(stores.list_all(base).unwrap().len(), 2);
    let without = commit("b", "1", Vec::new());
    assert_eq!((without.record.object.as_ref(), without.record.bytes()), (None, 0));

    let finished = store.finished("pass", &names).unwrap();
    assert_eq!(finished.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(finished["a"], first.record);
    assert!(store.finished("another", &names).unwrap().is_empty());
    // What was committed last is still in memory, and read again once it is not.
    commit("c", "1", arrays());
    let kept = store.record("pass", "c").unwrap().unwrap();
    let object = format!("{base}/pass/c-1.sums");
    let written = stores.read(&object).unwrap();
    stores.write(&object, vec![0; written.len()]).unwrap();
    assert_eq!(store.read("pass", kept.slices(3).unwrap()).concat().unwrap(), sums);
    let read = store.read("pass", kept.slices(9).unwrap()).concat().unwrap();
    assert_eq!(read[1].to_bits(), (-0.0_f64).to_bits());
    store.release();
    assert!(store.read("pass", kept.slices(3).unwrap()).next().unwrap().is_err());

    let slices = first.record.slices(3).unwrap();
    assert_eq!(slices.iter().map(|slice| slice.len).collect::<Vec<_>>(), [SLICE, 3]);
    assert_eq!(store.read("pass", slices).concat().unwrap(), sums);
    let kept = store.read("pass", first.record.slices(9).unwrap()).concat().unwrap();
    assert!(kept[0].is_nan() && kept[1].to_bits() == (-0.0_f64).to_bits());
    assert!(first.record.slices(4).is_none());

    // Numbers that are not those that were written are never added up.
    let object = format!("{base}/pass/a-1.sums");
    let written = stores.read(&object).unwrap();
    // A bit of the second of four pieces of a slice; all behind the first.
    let (of_piece, mut bit) = (8 * SLICE / 4, written.clone());
    bit[of_piece + 11] ^= 1;
    for damaged in [bit, written[..of_piece].to_vec()] {
        stores.write(&object, damaged).unwrap();
        let error = store
            .read("pass", first.record.slices(3).unwrap())
            .concat()
            .unwrap_err();
        let StoreError::DamagedSums { start, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(8 * *start as usize, of_piece);
        assert!(error.to_string().contains("a-1.sums"), "{error}");
        assert!(store.record("pass", "a").unwrap().is_none(), "it is computed again");
    }
    let again = commit("a", "3", arrays());
    let read = store.read("pass", again.record.slices(3).unwrap()).concat();
    assert_eq!(read.unwrap(), sums);
    // A group whose numbers are gone was never finished.
    stores.delete(&format!("{base}/pass/a-3.sums")).unwrap();
    let finished = store.finished("pass", &names).unwrap();
    assert_eq!(finished.keys().collect::<Vec<_>>(), ["b"]);
    assert!(store.record("pass", "a").unwrap().is_none());
    // So it is where they are read and no listing was asked.
    let last = commit("a", "4", arrays());
    store.release();
    stores.delete(&format!("{base}/pass/a-4.sums")).unwrap();
    let slices = last.record.slices(3).unwrap();
    let error = store.read("pass", slices).next().unwrap().unwrap_err();
    assert!(matches!(&error, StoreError::DamagedSums { start: 0, .. }), "{error}");
    assert!(store.record("pass", "a").unwrap().is_none());
}

fn objects(stores: &Stores, base: &str) {
    let uri = format!("{base}/a b/x.bin");
    assert!(!stores.exists(&uri).unwrap());
    let error = stores.read(&uri).unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    stores.write(&uri, vec![1, 2, 3]).unwrap();
    stores.write(&uri, vec![4, 5]).unwrap();
    assert_eq!(stores.read(&uri).unwrap(), [4, 5]);
    assert_eq!(stores.head(&uri).unwrap().unwrap().size, 2);
    for name in [
        "p/1/s-2.parquet",
        "p/1/s-1.parquet",
        "p/2/s-3.parquet",
        "p/2/t.txt",
        "p/s-0.parquet",
    ] {
        stores.write(&format!("{base}/{name}"), vec![0]).unwrap();
    }
    let names = |uri: &str| -> Vec<String> {
        let listed = stores.list(&format!("{base}/{uri}")).unwrap();
        listed
            .iter()
            .map(|o| o.path.rsplit_once("/p/").unwrap().1.to_owned())
            .collect()
    };
    assert_eq!(
        names("p/*/s-*.parquet"),
        ["1/s-1.parquet", "1/s-2.parquet", "2/s-3.parquet"]
    );
    assert_eq!(names("p/1/*"), ["1/s-1.parquet", "1/s-2.parquet"]);
    assert_eq!(names("p"), ["s-0.parquet"]);
    assert_eq!(names("p/2/"), ["2/s-3.parquet"]);
    assert_eq!(names("p/2/s-3.parquet"), ["2/s-3.parquet"]);
    assert_eq!(names("p/**/*.parquet").len(), 4);
    assert!(stores.list(&format!("{base}/nothing/*.parquet")).unwrap().is_empty());
    assert!(stores.list(&format!("{base}/nothing")).unwrap().is_empty());
    stores.delete(&uri).unwrap();
    stores.delete(&uri).unwrap();
    assert_eq!(stores.delete_prefix(&format!("{base}/p")).unwrap(), 5);
    assert!(stores.list_all(base).unwrap().is_empty());
}

fn conditional_creation(stores: &Stores, base: &str) {
    let n = 16;
    let barrier = Barrier::new(n);
    let uri = format!("{base}/one");
    let outcomes: Vec<Creation> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n)
            .map(|i| {
                let (uri, barrier) = (&uri, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    stores.create_once(uri, vec![i as u8]).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let won = |i: &usize| matches!(outcomes[*i], Creation::Created | Creation::Ours);
    let winner: Vec<usize> = (0..n).filter(won).collect();
    assert_eq!(winner.len(), 1);
    let holds = vec![winner[0] as u8];
    assert_eq!(stores.read(&uri).unwrap(), holds);
    let others = outcomes.iter().filter(|o| **o == Creation::Others(holds.clone()));
    assert_eq!(others.count(), n - 1);
}

fn catalogues(stores: &Stores, base: &str) {
    stores
        .write(&format!("{base}/a.parquet"), parquet(plain(0, 25, 30), 10))
        .unwrap();
    stores
        .write(&format!("{base}/b.parquet"), parquet(plain(25, 0, 30), 10))
        .unwrap();
    stores
        .write(&format!("{base}/c.parquet"), parquet(plain(25, 7, 30), 10))
        .unwrap();
    let catalogue = Catalogue::open(stores, base, &columns(), OnBadObject::Fail).unwrap();
    assert_eq!((catalogue.n_rows(), catalogue.n_pixels()), (32, 30));
    let rows: Vec<u64> = catalogue.shards().iter().map(|s| s.n_rows).collect();
    assert_eq!(rows, [10, 10, 5, 7]);
    assert_eq!(catalogue.summary().objects.len(), 3);
    let groups = plan_groups(catalogue.shards().to_vec(), 15, catalogue.folder());
    // Two pieces of the first object, and the last.
    assert_eq!(groups.len(), 3);
    // A budget of a few bytes must not stop anything.
    for prefetch in [1, 1 << 20] {
        let mut i = 0;
        for group in &groups {
            for batch in catalogue.fetch(group, 4, prefetch) {
                let batch = batch.unwrap();
                assert!(batch.n_rows() <= 4);
                for row in 0..batch.n_rows() {
                    assert_eq!(batch.flags[row], RowFlags::NONE);
                    for p in 0..30 {
                        assert_eq!(batch.flux[row * 30 + p], f64::from(flux(i, p)));
                        assert_eq!(batch.variance[row * 30 + p], 0.25);
                    }
                    assert_eq!(batch.labels[row * 2], 5000.0 + i as f64);
                    let in_object = if i < 25 { i } else { i - 25 };
                    assert_eq!(batch.shard.first_row + batch.positions[row], in_object as u64);
                    i += 1;
                }
            }
        }
        assert_eq!(i, 32);
    }
    // Stopping early leaves nothing behind that hangs.
    let mut fetch = catalogue.fetch(&groups[0], 1, 1);
    assert!(fetch.next().unwrap().is_ok());
    drop(fetch);
}

fn replaced_objects(stores: &Stores, base: &str) {
    let uri = format!("{base}/a.parquet");
    stores.write(&uri, parquet(plain(0, 8, 5), 4)).unwrap();
    let catalogue = Catalogue::open(stores, &uri, &columns(), OnBadObject::Fail).unwrap();
    let group = plan_groups(catalogue.shards().to_vec(), 100, "").remove(0);
    let before = catalogue.etags_sha256();
    stores.write(&uri, parquet(plain(3, 8, 5), 4)).unwrap();
    let results: Vec<_> = catalogue.fetch(&group, 100, 1 << 20).collect();
    let error = results.into_iter().last().unwrap().unwrap_err();
    assert!(
        matches!(&error, StoreError::Replaced { object, .. } if object.ends_with("a.parquet")),
        "{error}"
    );
    let catalogue = Catalogue::open(stores, &uri, &columns(), OnBadObject::Fail).unwrap();
    assert_ne!(catalogue.etags_sha256(), before);
}

pub fn claim_of(run: &str) -> Claim {
    Claim {
        run_id: run.into(),
        host: "node-1".into(),
        pid: 42,
        started: "2026-01-01T00:00:00Z".into(),
        machine: String::new(),
        born: 0,
        beat: 0,
    }
}

fn claims(stores: &Stores, base: &str) {
    let output = Output::open(stores, &format!("{base}/out")).unwrap();
    assert_eq!(output.held().unwrap(), None);
    let n = 8;
    let barrier = Barrier::new(n);
    let outcomes: Vec<Option<Holding>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n)
            .map(|i| {
                let (output, barrier) = (&output, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    output.claim(&claim_of(&format!("run-{i}")), false).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let winners: Vec<usize> = (0..n).filter(|&i| outcomes[i].is_some()).collect();
    assert_eq!(winners.len(), 1);
    let first = outcomes.into_iter().flatten().next().unwrap();
    let holder = output.holder().unwrap().unwrap();
    assert_eq!(holder.run_id, format!("run-{}", winners[0]));
    first.check().unwrap();
    // Whoever wrote it, and did not hear of it, has it.
    assert_eq!(output.claim(&holder, false).unwrap().unwrap().generation(), 1);

    let held = output.held().unwrap().unwrap();
    assert_eq!((held.generation, &held.claim), (1, &holder));
    assert_eq!(output.sign_of_life(&held).unwrap(), SignOfLife::None);
    first.beat(1).unwrap();
    let beat = output.sign_of_life(&held).unwrap();
    first.beat(2).unwrap();
    assert_ne!(output.sign_of_life(&held).unwrap(), beat);
    first.release().unwrap();
    assert_eq!(output.sign_of_life(&held).unwrap(), SignOfLife::Released);

    // Of several that follow one does; the one before can do nothing more.
    let followers: Vec<Claim> = (43..46).map(|pid| Claim { pid, ..holder.clone() }).collect();
    let second: Vec<Holding> = followers
        .iter()
        .filter_map(|claim| output.succeed(&held, claim).unwrap())
        .collect();
    let [second] = &second[..] else {
        panic!("{} follow", second.len())
    };
    assert_eq!((second.generation(), output.holder().unwrap().unwrap().pid), (2, 43));
    let manifest = manifest_of(&holder.run_id, Vec::new());
    for refused in [first.check(), first.beat(3), first.release(), first.commit(&manifest)] {
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, StoreError::TakenOver { claim, .. } if claim.pid == 43),
            "{error}"
        );
    }
    second.commit(&manifest).unwrap();
    second.commit(&manifest).unwrap();
    // Nobody took it over.
    second.release().unwrap();
    let committed = output.held().unwrap().unwrap();
    assert_eq!(committed.committed.as_ref(), Some(&manifest));
    assert_eq!(committed.claim.pid, 43);

    // Overwritten: nothing goes before it is time, nor beside what no run wrote, and then everything but the log.
    for path in [
        "predictions/part-00000.parquet",
        "stages/groups/a/b",
        "stages/fit.json",
        "manifest.json",
    ] {
        stores.write(&output.child(path), vec![1]).unwrap();
    }
    let before = output.contents().unwrap().len();
    let third = output.succeed(&committed, &claim_of("another")).unwrap().unwrap();
    assert!(second.check().is_err() && second.clear().is_err());
    assert_eq!(output.contents().unwrap().len(), before + 1, "its entry in the log");
    for path in [Output::STATUS, "notes.txt"] {
        stores.write(&output.child(path), vec![1]).unwrap();
    }
    for refused in [output.check_removable(), third.clear()] {
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, StoreError::NotOfARun { object, .. } if *object == output.child("notes.txt")),
            "{error}"
        );
    }
    assert_eq!(output.contents().unwrap().len(), before + 3);
    stores.delete(&output.child("notes.txt")).unwrap();
    third.clear().unwrap();
    third.check().unwrap();
    assert!(stores.exists(&output.child(Output::STATUS)).unwrap());
    output.clear_stages().unwrap();
    let left: Vec<String> = output.contents().unwrap().into_iter().map(|(path, _)| path).collect();
    assert!(left.iter().all(|path| path.starts_with("claim")), "{left:?}");
    output.clear_claims().unwrap();
    assert_eq!(output.contents().unwrap().len(), 1);
    assert_eq!(output.holder().unwrap().unwrap().run_id, "another");
    // What is not ours is neither taken nor deleted.
    let foreign = Output::open(stores, &format!("{base}/foreign")).unwrap();
    stores.write(&foreign.child("thesis.tex"), vec![1]).unwrap();
    for overwrite in [false, true] {
        let error = foreign.claim(&holder, overwrite).unwrap_err();
        assert!(matches!(error, StoreError::NotOurs { .. }), "{error}");
    }
    assert!(stores.exists(&foreign.child("thesis.tex")).unwrap());
    assert!(!stores.exists(&foreign.child("claim.json")).unwrap());
}

pub fn manifest_of(run: &str, files: Vec<WrittenFile>) -> Manifest {
    Manifest {
        version: Manifest::VERSION,
        fisherflow: "0.1.0".into(),
        run_id: run.into(),
        created: now_utc(),
        inputs: Vec::new(),
        counts: [("spectra".to_owned(), 3)].into(),
        files,
        settings: serde_json::json!({"batch": 512}),
        notes: Vec::new(),
    }
}

/// Appends a matrix of one value.
pub fn append_one(writer: &mut MatrixWriter) {
    writer.append_tiles("l", "dense", 1, &[(1, &[1.0][..])]).unwrap();
}

fn outputs(stores: &Stores, base: &str) {
    let output = Output::open(stores, base).unwrap();
    assert!(output.claim(&claim_of("one"), false).unwrap().is_some());
    assert!(matches!(output.verify().unwrap_err(), StoreError::NotComplete { .. }));
    let write = |name: &str| {
        let mut writer = output
            .matrices(MatrixSet::Hessian, name, &FileMetadata::default())
            .unwrap();
        append_one(&mut writer);
        writer.finish().unwrap()
    };
    let files = vec![write("l"), output.put("report.html", b"<p>".to_vec()).unwrap()];
    write("left-by-an-attempt-before");
    let manifest = manifest_of("one", files.clone());
    let mut short = manifest.clone();
    short.files[0].bytes += 1;
    assert!(output.commit(&short).is_err());
    let mut missing = manifest.clone();
    missing.files[0].path = "posterior/nowhere.parquet".into();
    assert!(matches!(
        output.commit(&missing).unwrap_err(),
        StoreError::NotFound { .. }
    ));
    assert!(output.manifest().unwrap().is_none());
    // The failed commits have deleted what they did not list.
    let files = vec![write("l"), files[1].clone()];
    let manifest = manifest_of("one", files);
    output.commit(&manifest).unwrap();
    let mut later = manifest.clone();
    later.created = "2030-01-01T00:00:00Z".into();
    output.commit(&later).unwrap();
    let mut sorted = manifest.clone();
    sorted.files.sort();
    assert_eq!(output.manifest().unwrap().unwrap(), sorted);
    let verified = output.verify().unwrap();
    assert_eq!((verified.files, verified.problems), (2, vec![]));
    let error = output.commit(&manifest_of("two", manifest.files.clone())).unwrap_err();
    assert!(
        matches!(&error, StoreError::CommitConflict { run_id, .. } if run_id == "one"),
        "{error}"
    );
    let mut other = manifest.clone();
    other.files[1].sha256 = "00".into();
    assert!(output.commit(&other).is_err());
    // A complete output without its claim is nobody's to take.
    stores.delete(&output.child("claim.json")).unwrap();
    let error = output.claim(&claim_of("two"), false).unwrap_err();
    assert!(
        matches!(&error, StoreError::Complete { run_id, .. } if run_id == "one"),
        "{error}"
    );
    // Every kind of damage is found.
    stores.write(&output.child("report.html"), b"<q>".to_vec()).unwrap();
    stores
        .write(&output.child("predictions/stray.parquet"), vec![0])
        .unwrap();
    stores.delete(&output.child("_SUCCESS")).unwrap();
    let problems = output.verify().unwrap().problems.join("\n");
    for part in [
        "report.html has SHA-256",
        "stray.parquet is not listed",
        "_SUCCESS is missing",
    ] {
        assert!(problems.contains(part), "{problems}");
    }
    let second = output.claim(&claim_of("two"), true).unwrap().unwrap();
    assert!(output.manifest().unwrap().is_some());
    second.clear().unwrap();
    assert_eq!(output.contents().unwrap().len(), 1, "its claim");
}

/// Several parts of an upload, several pieces of a range.
fn large_files(stores: &Stores, base: &str) {
    let simulation = Simulation::new(4000, 3);
    let files = write_simulated(stores, base, &simulation, 1500, 1500).unwrap();
    assert_eq!((files.len(), files[0].rows), (1, 1500));
    assert!(files[0].bytes > 36 << 20, "{}", files[0].bytes);
    let listed = stores.list(base).unwrap();
    assert_eq!(listed[0].size, files[0].bytes);
    let catalogue = Catalogue::open(stores, base, &simulated_columns(), OnBadObject::Fail).unwrap();
    let group = plan_groups(catalogue.shards().to_vec(), 1 << 20, "").remove(0);
    let mut i = 0;
    for batch in catalogue.fetch(&group, 512, 64 << 20) {
        let batch = batch.unwrap();
        for row in (0..batch.n_rows()).step_by(100) {
            let spectrum = simulation.spectrum(i + row as u64);
            let flux = &batch.flux[row * 4000..(row + 1) * 4000];
            assert!(flux.iter().zip(&spectrum.flux).all(|(a, b)| *a == f64::from(*b)));
            assert_eq!(batch.labels[row * 3..row * 3 + 3], spectrum.labels);
        }
        i += batch.n_rows() as u64;
    }
    assert_eq!(i, 1500);
}
