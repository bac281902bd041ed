//! What a line of releases must do on every store.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use arrow_array::{ArrayRef, NullArray};
use fisherflow_spectra::{CatalogueColumns, FluxError, LabelErrors};
use fisherflow_store::*;

/// Runs the suite under `base`, an empty place.
pub fn conform(stores: &Stores, base: &str) {
    one_of_many_commits_a_release(stores, &format!("{base}/many"));
    a_uri_means_a_release(stores, &format!("{base}/read"));
    a_release_in_the_making_keeps_checkpoints(stores, &format!("{base}/making"));
    what_is_left_of_a_removal_is_still_an_output(stores, &format!("{base}/cut"));
    a_release_that_a_run_goes_on_with_is_not_removed(stores, &format!("{base}/resumed"));
    what_a_run_left_behind_its_commit_goes(stores, &format!("{base}/left"));
    a_release_is_as_it_was_committed(stores, &format!("{base}/whole"));
    unchanged_objects_are_not_opened(stores, &format!("{base}/known"));
    what_most_objects_have_does_not_depend_on_what_is_known(stores, &format!("{base}/most"));
    a_column_that_was_empty_is_of_the_first_type_that_fills_it(stores, &format!("{base}/filled"));
    known_objects_are_opened_until_each_column_has_shown_its_type(stores, &format!("{base}/shown"));
}

fn commit_of(release: u64, run_id: &str) -> Commit {
    Commit {
        version: Commit::VERSION,
        release,
        parent: release.checked_sub(1).filter(|parent| *parent > 0),
        run_id: run_id.to_owned(),
        created: now_utc(),
        fisherflow: "0".to_owned(),
        manifest_sha256: format!("of {run_id}"),
        basis_sha256: String::new(),
        exclude_sha256: None,
        spectra: 0,
        catalogue: CatalogueFacts {
            columns: CatalogueColumns {
                id: "id".to_owned(),
                flux: "flux".to_owned(),
                error: FluxError::Exact,
                mask: None,
                labels: Vec::new(),
                label_errors: LabelErrors::None,
                holdout_group: None,
                keep: Vec::new(),
            },
            n_pixels: 1,
            types: Vec::new(),
        },
        changes: Changes::default(),
        objects: Vec::new(),
        row_group_bytes: Vec::new(),
        groups: vec![ReleasedGroup {
            membership: format!("m{release}"),
            shards: Vec::new(),
            excluded: Vec::new(),
            checkpoints: BTreeMap::from([("curvature".to_owned(), format!("c{release}"))]),
        }],
    }
}

/// The commit of a release of a catalogue.
fn released(catalogue: &Catalogue) -> Commit {
    let groups = fisherflow_spectra::plan_groups(catalogue.shards().to_vec(), 8, catalogue.folder());
    let (objects, groups) = Commit::of_groups(&groups, |_| (Vec::new(), BTreeMap::new()));
    let row_group_bytes = objects.iter().map(|object| catalogue.row_group_bytes(object));
    Commit {
        catalogue: catalogue.facts(),
        row_group_bytes: row_group_bytes.collect(),
        objects,
        groups,
        ..commit_of(1, "r")
    }
}

fn one_of_many_commits_a_release(stores: &Stores, base: &str) {
    let line = Line::open(stores, base).unwrap();
    let n = 12;
    let barrier = Barrier::new(n);
    let outcomes: Vec<Result<(), StoreError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n)
            .map(|i| {
                let (line, barrier) = (&line, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    line.commit(&commit_of(1, &format!("r{i}")))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let winners: Vec<usize> = (0..n).filter(|&i| outcomes[i].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let winner = format!("r{}", winners[0]);
    assert_eq!(line.latest().unwrap().unwrap().run_id, winner);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert!(
            error
                .to_string()
                .contains(&format!("was committed by run {winner} as release 1")),
            "{error}"
        );
    }
    // An answer that got lost: the commit is one's own.
    line.commit(&commit_of(1, &winner)).unwrap();
}

fn a_uri_means_a_release(stores: &Stores, base: &str) {
    let line = Line::open(stores, base).unwrap();
    let resolved = |uri: &str| Line::resolve(stores, uri).map(|resolved| resolved.uri);
    assert_eq!(resolved(base).unwrap(), base, "an output of its own");
    line.pin_basis(b"basis".to_vec()).unwrap();
    line.pin_basis(b"basis".to_vec()).unwrap();
    assert!(matches!(
        line.pin_basis(b"other".to_vec()),
        Err(StoreError::CommitConflict { run_id, .. }) if run_id == "another"
    ));
    assert!(matches!(resolved(base), Err(StoreError::NotComplete { .. })));
    for release in [1, 2, 10] {
        line.commit(&commit_of(release, "r")).unwrap();
    }
    assert_eq!(line.releases().unwrap(), [1, 2, 10]);
    for (uri, release) in [
        ("", 10),
        ("/", 10),
        ("@2", 2),
        ("/releases/1", 1),
        ("/releases/10/", 10),
    ] {
        assert_eq!(
            resolved(&format!("{base}{uri}")).unwrap(),
            line.release_uri(release),
            "{uri}"
        );
    }
    for uri in ["@3", "/releases/11"] {
        let error = resolved(&format!("{base}{uri}")).unwrap_err();
        assert!(error.to_string().contains("its last is 10"), "{error}");
    }
    for uri in ["@3", "/night@12/"] {
        for opened in [
            Line::open(stores, &format!("{base}{uri}")).map(drop),
            Output::open(stores, &format!("{base}{uri}")).map(drop),
        ] {
            let error = opened.unwrap_err();
            assert!(matches!(error, StoreError::BadUri { .. }), "{uri}: {error}");
        }
    }
    // What only looks like one.
    for uri in ["/night@home", "/releases/latest"] {
        let uri = format!("{base}{uri}");
        assert_eq!(resolved(&uri).unwrap(), uri);
    }
}

fn a_release_in_the_making_keeps_checkpoints(stores: &Stores, base: &str) {
    let line = Line::open(stores, base).unwrap();
    line.pin_basis(b"basis".to_vec()).unwrap();
    for release in [1, 2] {
        line.commit(&commit_of(release, "r")).unwrap();
        stores
            .write(&format!("{}/manifest.json", line.release_uri(release)), vec![1])
            .unwrap();
    }
    let checkpoints = [
        "ids/m1.parquet",
        "ids/m2.parquet",
        "ids/m9.parquet",
        "curvature/c9.done",
    ];
    for name in checkpoints {
        stores
            .write(&format!("{}/{name}", line.groups_uri()), vec![0; 3])
            .unwrap();
    }
    let keep = |keep, grace| line.garbage(Retention { keep, grace }).unwrap();
    let day = Duration::from_secs(86_400);
    let young = keep(Some(1), day);
    assert_eq!((young.kept, young.objects.len()), (vec![1, 2], 0), "nothing is old");
    // Ages are told in whole seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let all = keep(None, Duration::ZERO);
    assert_eq!((all.kept.len(), all.expired.len()), (2, 0));
    assert_eq!(all.objects.len(), 2, "{all:?}");
    let last = keep(Some(1), Duration::ZERO);
    assert_eq!(
        (last.kept.clone(), last.expired.clone(), last.bytes()),
        (vec![2], vec![1], 10 + commit_bytes(stores, &line, 1))
    );
    stores
        .write(&format!("{}/claim.json", line.release_uri(3)), vec![1])
        .unwrap();
    let during = keep(Some(1), Duration::from_secs(1));
    assert_eq!(during.in_the_making, [3]);
    assert!(
        during.objects.iter().all(|(object, _)| !object.contains("/groups/")),
        "{during:?}"
    );
    // The next release was claimed after the line was listed: its run may be about to use what no release names.
    let removed = line.remove(&last, &super::claim_of("gc")).unwrap();
    assert_eq!(removed.checkpoints_spared, 3, "{removed:?}");
    assert!(
        stores
            .exists(&format!("{}/curvature/c9.done", line.groups_uri()))
            .unwrap()
    );
    assert_eq!(line.releases().unwrap(), [2]);
    stores.delete(&format!("{}/claim.json", line.release_uri(3))).unwrap();
    let removed = line.remove(&last, &super::claim_of("gc")).unwrap();
    assert_eq!(removed.checkpoints_spared, 0, "{removed:?}");
    let left: Vec<String> = stores
        .list_all(base)
        .unwrap()
        .into_iter()
        .map(|object| object.path)
        .collect();
    let ends: Vec<&str> = left.iter().map(|path| path.strip_prefix(base).unwrap()).collect();
    assert_eq!(
        ends,
        [
            "/basis.json",
            "/commits/2.json",
            "/groups/ids/m2.parquet",
            "/releases/2/manifest.json",
        ]
    );
}

/// Wherever the removal of an abandoned release is cut short, the next run may take the place, or finds it empty.
fn what_is_left_of_a_removal_is_still_an_output(stores: &Stores, base: &str) {
    let line = Line::open(stores, base).unwrap();
    line.pin_basis(b"basis".to_vec()).unwrap();
    let output = Output::open(stores, &line.release_uri(1)).unwrap();
    output.claim(&super::claim_of("dead"), false).unwrap().unwrap();
    for path in ["posterior/blocks.parquet", "stages/fit.json", "zodiac/claim.json"] {
        output.put(path, vec![1]).unwrap();
    }
    // Ages are told in whole seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let all = Retention {
        keep: None,
        grace: Duration::ZERO,
    };
    let garbage = line.garbage(all).unwrap();
    assert_eq!((garbage.abandoned.as_slice(), garbage.objects.len()), (&[1][..], 4));
    for (object, _) in &garbage.objects {
        assert!(output.holder().unwrap().is_some(), "{object} is left, and no claim");
        stores.delete(object).unwrap();
    }
    assert!(output.contents().unwrap().is_empty());
}

/// A run that goes on with a release after it was listed as abandoned keeps it, wherever it is by the time that it would go.
fn a_release_that_a_run_goes_on_with_is_not_removed(stores: &Stores, base: &str) {
    let all = Retention {
        keep: None,
        grace: Duration::ZERO,
    };
    let abandoned = |name: &str| {
        let line = Line::open(stores, &format!("{base}/{name}")).unwrap();
        line.pin_basis(b"basis".to_vec()).unwrap();
        let output = Output::open(stores, &line.release_uri(1)).unwrap();
        output.claim(&super::claim_of("dead"), false).unwrap().unwrap();
        output.put("stages/fit.json", vec![1]).unwrap();
        stores
            .write(&format!("{}/curvature/c9.done", line.groups_uri()), vec![0; 3])
            .unwrap();
        (line, output)
    };
    let lines = ["left", "claimed", "changed", "committed"].map(|name| (name, abandoned(name)));
    // Ages are told in whole seconds.
    std::thread::sleep(Duration::from_millis(2100));
    for (name, (line, output)) in lines {
        let garbage = line.garbage(all).unwrap();
        assert_eq!(garbage.abandoned, [1], "{name}");
        assert_eq!(garbage.objects.len(), 3, "{name}");
        let claim = super::claim_of("nightly");
        match name {
            "claimed" => {
                let held = output.held().unwrap().unwrap();
                output.succeed(&held, &claim).unwrap().unwrap();
            }
            // The same bytes again.
            "changed" => drop(output.put("stages/fit.json", vec![1]).unwrap()),
            "committed" => line.commit(&commit_of(1, "nightly")).unwrap(),
            _ => {}
        }
        let before = stores.list_all(line.uri()).unwrap();
        let removed = line.remove(&garbage, &super::claim_of("gc")).unwrap();
        if name == "left" {
            assert_eq!(
                (removed.objects, removed.spared.as_slice()),
                (3, &[][..]),
                "{removed:?}"
            );
            assert_eq!(stores.list_all(line.uri()).unwrap().len(), 1, "the basis");
        } else {
            assert_eq!(
                (removed.objects, removed.spared.as_slice()),
                (0, &[1][..]),
                "{name}: {removed:?}"
            );
            assert_eq!(removed.checkpoints_spared, 1, "{name}");
            assert_eq!(stores.list_all(line.uri()).unwrap(), before, "{name}");
        }
    }
}

/// What a run had still to remove when it died behind its commit goes, and nothing else of its release: who made it stays known.
fn what_a_run_left_behind_its_commit_goes(stores: &Stores, base: &str) {
    let line = Line::open(stores, base).unwrap();
    line.pin_basis(b"basis".to_vec()).unwrap();
    let output = Output::open(stores, &line.release_uri(1)).unwrap();
    output.claim(&super::claim_of("dead"), false).unwrap().unwrap();
    let held = output.held().unwrap().unwrap();
    let holding = output.succeed(&held, &super::claim_of("r")).unwrap().unwrap();
    for path in ["stages/bases/block-000.parquet", "rendezvous/r/0.json"] {
        output.put(path, vec![1]).unwrap();
    }
    let manifest = super::manifest_of("r", vec![]);
    holding.commit(&manifest).unwrap();
    output.commit(&manifest).unwrap();
    line.commit(&commit_of(1, "r")).unwrap();
    let found = |grace| line.garbage(Retention { keep: None, grace }).unwrap();
    assert_eq!(found(Duration::from_secs(86_400)).objects.len(), 0, "nothing is old");
    // Ages are told in whole seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let garbage = found(Duration::ZERO);
    assert_eq!(
        (garbage.kept.as_slice(), garbage.objects.len()),
        (&[1][..], 4),
        "{garbage:?}"
    );
    let removed = line.remove(&garbage, &super::claim_of("gc")).unwrap();
    assert_eq!((removed.objects, removed.bytes), (4, garbage.bytes()));
    let left = stores.list_all(base).unwrap();
    let left: Vec<&str> = left
        .iter()
        .map(|object| object.path.strip_prefix(base).unwrap())
        .collect();
    assert_eq!(
        left,
        [
            "/basis.json",
            "/commits/1.json",
            "/releases/1/_SUCCESS",
            "/releases/1/claim.json",
            "/releases/1/manifest.json",
        ]
    );
    assert_eq!(output.holder().unwrap().unwrap().run_id, "r");
}

fn a_release_is_as_it_was_committed(stores: &Stores, base: &str) {
    let line = Line::open(stores, base).unwrap();
    line.pin_basis(b"basis".to_vec()).unwrap();
    let output = Output::open(stores, &line.release_uri(1)).unwrap();
    let manifest = super::manifest_of("r", vec![output.put("posterior/blocks.parquet", vec![1, 2]).unwrap()]);
    output.commit(&manifest).unwrap();
    let uri = output.child("manifest.json");
    let written = stores.read(&uri).unwrap();
    let mut commit = commit_of(1, "r");
    (commit.manifest_sha256, commit.basis_sha256) = (sha256(&written), sha256(b"basis"));
    line.commit(&commit).unwrap();
    let problems = || line.verify(1).unwrap().problems;
    assert_eq!(problems(), Vec::<String>::new());
    // As good a manifest as the other, and not the one.
    stores.write(&uri, [written.as_slice(), b"\n"].concat()).unwrap();
    stores.write(&line.basis_uri(), b"basics".to_vec()).unwrap();
    let found = problems();
    assert_eq!(found.len(), 2, "{found:?}");
    let changed = [
        ("manifest.json", [written.as_slice(), b"\n"].concat()),
        ("basis.json", b"basics".to_vec()),
    ];
    for (problem, (name, bytes)) in found.iter().zip(changed) {
        let said = format!("{name} has SHA-256 {}", sha256(&bytes));
        assert!(problem.contains(&said), "{problem}");
    }
    assert_eq!(output.listed_damages(&manifest.files).unwrap(), []);
    for (bytes, said) in [(Some(vec![1]), "has 1 bytes, was written with 2"), (None, "is missing")] {
        let uri = output.child("posterior/blocks.parquet");
        bytes
            .map_or_else(|| stores.delete(&uri), |bytes| stores.write(&uri, bytes))
            .unwrap();
        let damages = output.listed_damages(&manifest.files).unwrap();
        assert_eq!(damages.len(), 1, "{damages:?}");
        assert!(damages[0].to_string().ends_with(said), "{damages:?}");
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn commit_bytes(stores: &Stores, line: &Line, release: u64) -> u64 {
    let uri = format!("{}/commits/{release}.json", line.uri());
    stores.head(&uri).unwrap().unwrap().size
}

/// An object that is known is taken as it was: even one that is no Parquet any more, if its version says that it is the same.
fn unchanged_objects_are_not_opened(stores: &Stores, base: &str) {
    use super::super::support::{columns, parquet, plain};
    for (name, first) in [("a", 0), ("b", 8), ("c", 16)] {
        stores
            .write(&format!("{base}/{name}.parquet"), parquet(plain(first, 8, 5), 4))
            .unwrap();
    }
    let open = |known: Option<&KnownCatalogue<'_>>| {
        Catalogue::open_knowing(stores, base, &columns(), OnBadObject::Fail, Some(5), known)
    };
    let mut commit = released(&open(None).unwrap());
    stores
        .write(&format!("{base}/b.parquet"), parquet(plain(30, 12, 5), 4))
        .unwrap();
    let known = open(Some(&KnownCatalogue::of(&commit))).unwrap();
    assert_eq!(known.summary(), open(None).unwrap().summary());
    // A catalogue of other columns is opened again, all of it.
    let mut others = columns();
    others.keep.clear();
    let open = Catalogue::open_knowing(
        stores,
        base,
        &others,
        OnBadObject::Fail,
        Some(5),
        Some(&KnownCatalogue::of(&commit)),
    );
    assert_eq!(open.unwrap().row_schema().fields().len(), 1);
    let garbage = stores.head(&format!("{base}/c.parquet")).unwrap().unwrap();
    stores.write(&format!("{base}/c.parquet"), vec![7; 40]).unwrap();
    let replaced = stores.head(&format!("{base}/c.parquet")).unwrap().unwrap();
    for object in &mut commit.objects {
        if *object == garbage {
            *object = replaced.clone();
        }
    }
    let open = |commit: &Commit| {
        Catalogue::open_knowing(
            stores,
            base,
            &columns(),
            OnBadObject::Fail,
            Some(5),
            Some(&KnownCatalogue::of(commit)),
        )
    };
    assert_eq!(open(&commit).unwrap().n_rows(), 8 + 12 + 8);
    // A commit that does not say how much is read of them: all are opened again.
    commit.row_group_bytes.clear();
    assert!(matches!(open(&commit), Err(StoreError::NotParquet { .. })));
}

/// An odd object is left out of what is known already, and what is known is left out where most objects are unlike it.
fn what_most_objects_have_does_not_depend_on_what_is_known(stores: &Stores, base: &str) {
    use super::super::support::{columns, f64s, parquet, plain, set};
    let write = |name: &str, of_doubles: bool| {
        let mut rows = plain(0, 8, 5);
        if of_doubles {
            set(&mut rows, "snr", f64s(0, 8, |i| i as f64));
        }
        stores
            .write(&format!("{base}/{name}.parquet"), parquet(rows, 4))
            .unwrap();
    };
    for name in ["a", "b", "c"] {
        write(name, false);
    }
    let open = |known: Option<&KnownCatalogue<'_>>| {
        Catalogue::open_knowing(stores, base, &columns(), OnBadObject::Skip, Some(5), known)
    };
    let commit = released(&open(None).unwrap());
    for (name, snr, rows) in [("c", "Float32", 16), ("b", "Float64", 16), ("d", "Float64", 24)] {
        write(name, true);
        let known = open(Some(&KnownCatalogue::of(&commit))).unwrap();
        let found = known.row_schema().field(1).data_type().to_string();
        assert_eq!((found.as_str(), known.n_rows()), (snr, rows), "{name}");
        assert_eq!(known.summary(), open(None).unwrap().summary());
    }
}

/// Spectra that keep a column `comment`, too.
fn commented(first: usize, comment: ArrayRef) -> Vec<(&'static str, ArrayRef)> {
    let mut rows = super::super::support::plain(first, 8, 5);
    super::super::support::set(&mut rows, "comment", comment);
    rows
}

fn a_column_that_was_empty_is_of_the_first_type_that_fills_it(stores: &Stores, base: &str) {
    use super::super::support::{columns, f64s, i64s, parquet};
    let write = |name: &str, comment: ArrayRef| {
        let uri = format!("{base}/{name}.parquet");
        stores.write(&uri, parquet(commented(0, comment), 4)).unwrap();
    };
    for name in ["a", "b", "c", "d"] {
        write(name, Arc::new(NullArray::new(8)));
    }
    let mut columns = columns();
    columns.keep.push("comment".to_owned());
    let open = |on_bad_object, known: Option<&KnownCatalogue<'_>>| {
        Catalogue::open_knowing(stores, base, &columns, on_bad_object, Some(5), known)
    };
    let commit = released(&open(OnBadObject::Fail, None).unwrap());
    let known = KnownCatalogue::of(&commit);
    write("e", i64s(0, 8));
    for on_bad_object in [OnBadObject::Fail, OnBadObject::Skip] {
        let filled = open(on_bad_object, Some(&known)).unwrap();
        assert_eq!(filled.row_schema().field(2).data_type().to_string(), "Int64");
        assert_eq!((filled.n_rows(), filled.skipped().len()), (40, 0));
        assert_eq!(filled.facts(), open(on_bad_object, None).unwrap().facts());
    }
    // Another type beside it is still odd.
    write("f", f64s(0, 8, |i| i as f64));
    let error = open(OnBadObject::Fail, Some(&known)).unwrap_err();
    assert!(matches!(error, StoreError::ColumnType { .. }), "{error}");
    let skipping = open(OnBadObject::Skip, Some(&known)).unwrap();
    assert_eq!(skipping.summary(), open(OnBadObject::Skip, None).unwrap().summary());
}

/// No one object need have a type in every column.
fn known_objects_are_opened_until_each_column_has_shown_its_type(stores: &Stores, base: &str) {
    use super::super::support::{columns, i64s, parquet, set};
    let nulls = || Arc::new(NullArray::new(8));
    let write = |name: &str, bytes: Vec<u8>| stores.write(&format!("{base}/{name}.parquet"), bytes).unwrap();
    let mut without_snr = commented(8, i64s(8, 8));
    set(&mut without_snr, "snr", nulls());
    write("a", parquet(commented(0, nulls()), 4));
    write("b", parquet(without_snr.clone(), 4));
    write("c", parquet(commented(16, nulls()), 4));
    write("d", parquet(without_snr, 4));
    let mut columns = columns();
    columns.keep.push("comment".to_owned());
    let open = |known: Option<&KnownCatalogue<'_>>| {
        Catalogue::open_knowing(stores, base, &columns, OnBadObject::Fail, Some(5), known)
    };
    let mut commit = released(&open(None).unwrap());
    // One that could not be opened, in the version that is known.
    write("d", vec![7; 40]);
    let replaced = stores.head(&format!("{base}/d.parquet")).unwrap().unwrap();
    for object in &mut commit.objects {
        if object.path == replaced.path {
            *object = replaced.clone();
        }
    }
    let known = open(Some(&KnownCatalogue::of(&commit))).unwrap();
    let types: Vec<String> = known
        .row_schema()
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    assert_eq!(
        (known.n_rows(), &types[1..]),
        (32, &["Float32".to_owned(), "Int64".to_owned()][..])
    );
}
