//! Catalogues of every type that is read, and of everything that can be wrong with one.

#[allow(dead_code, reason = "every test file uses its own part of it")]
mod support;

use std::sync::Arc;

use arrow_array::builder::{Float32Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{
    Array, ArrayRef, Float64Array, NullArray, StringArray, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use fisherflow_spectra::{
    CatalogueColumns, FluxError, LabelErrors, RowFlags, Shard, SpectrumBatch, StarKey, holdout_hash, is_held_out,
    plan_groups,
};
use fisherflow_store::*;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::metadata::{ColumnChunkMetaDataBuilder, ParquetMetaDataReader, ParquetMetaDataWriter};
use support::*;
use tempfile::TempDir;

struct Place {
    directory: TempDir,
    stores: Stores,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            stores: Stores::new(StoreOptions::default(), 2).unwrap(),
        }
    }

    fn uri(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: Vec<u8>) {
        self.stores.write(&self.uri(name), bytes).unwrap();
    }

    fn open(&self, columns: &CatalogueColumns) -> Result<Catalogue, StoreError> {
        Catalogue::open(&self.stores, &self.uri("*.parquet"), columns, OnBadObject::Fail)
    }

    /// All spectra in one batch a row group.
    fn all(&self, columns: &CatalogueColumns) -> Vec<SpectrumBatch> {
        let catalogue = self.open(columns).unwrap();
        plan_groups(catalogue.shards().to_vec(), 1, "")
            .iter()
            .flat_map(|group| catalogue.fetch(group, 1000, 1 << 20))
            .collect::<Result<_, _>>()
            .unwrap()
    }
}

#[test]
fn every_kind_of_list_and_identifier_is_read() {
    let reference = {
        let place = Place::new();
        place.write("a.parquet", parquet(plain(0, 6, 4), 100));
        place.all(&columns()).remove(0)
    };
    let flux64 = |i, p| f64::from(flux(i, p));
    let kinds: [(ArrayRef, ArrayRef); 2] = [
        (large_doubles(6, 4, flux64), large_doubles(6, 4, |_, _| 0.5)),
        (fixed_floats(6, 4, flux), fixed_floats(6, 4, |_, _| 0.5)),
    ];
    for (flux, sigma) in kinds {
        let place = Place::new();
        let mut rows = plain(0, 6, 4);
        set(&mut rows, "flux", flux);
        set(&mut rows, "flux_err", sigma);
        set(&mut rows, "id", i64s(7, 6));
        place.write("a.parquet", parquet(rows, 100));
        let batch = place.all(&columns()).remove(0);
        assert_eq!((&batch.flux, &batch.variance), (&reference.flux, &reference.variance));
        assert_eq!(batch.holdout[0], holdout_hash("7"));
        assert_eq!(batch.rows.schema().field(0).data_type().to_string(), "Int64");
        assert_eq!(batch.rows.schema().field(1).name(), "snr");
    }
}

#[test]
fn kept_moments_are_in_microseconds_for_readers_that_know_no_finer() {
    let place = Place::new();
    let nanoseconds = TimestampNanosecondArray::from(vec![Some(1_500), None, Some(i64::MAX), Some(i64::MIN)]);
    let microseconds = TimestampMicrosecondArray::from(vec![Some(7), None]);
    let zoned: [(&str, usize, ArrayRef); 2] = [
        ("a.parquet", 4, Arc::new(nanoseconds.with_timezone("UTC"))),
        ("b.parquet", 2, Arc::new(microseconds.with_timezone("UTC"))),
    ];
    for (name, n, seen) in zoned {
        let mut rows = plain(0, n, 4);
        set(&mut rows, "seen", seen);
        place.write(name, parquet(rows, 100));
    }
    let mut columns = columns();
    columns.keep = vec!["seen".into()];
    let batches = place.all(&columns);
    let seen = |batch: usize| -> Vec<Option<i64>> {
        let column = batches[batch].rows.column(1);
        assert!(
            column.data_type().to_string().starts_with("Timestamp(µs"),
            "{}",
            column.data_type()
        );
        column.as_primitive::<TimestampMicrosecondType>().iter().collect()
    };
    assert_eq!(seen(0), [Some(1), None, Some(i64::MAX / 1000), Some(i64::MIN / 1000)]);
    assert_eq!(seen(1), [Some(7), None]);
}

#[test]
#[allow(deprecated, reason = "old files have the first LZ4")]
fn every_codec_of_parquet_is_read() {
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ];
    for codec in codecs {
        let place = Place::new();
        place.write("a.parquet", parquet_by(codec, plain(0, 6, 4), 100));
        let batch = place.all(&columns()).remove(0);
        let expected: Vec<f64> = (0..6)
            .flat_map(|i| (0..4).map(move |p| f64::from(flux(i, p))))
            .collect();
        assert_eq!(batch.flux, expected, "{codec}");
    }
}

#[test]
fn the_largest_row_group_is_that_of_which_most_is_read() {
    let place = Place::new();
    let mut rows = plain(0, 6, 4);
    set(&mut rows, "image", floats(0, 6, 5_000, |i, p| (i * p) as f32));
    let with_image = parquet(rows, 100);
    place.write("a.parquet", with_image.clone());
    place.write("b.parquet", parquet(plain(6, 300, 4), 120));
    let largest = |columns: &CatalogueColumns, name: &str| {
        let of_name = Catalogue::open(&place.stores, &place.uri(name), columns, OnBadObject::Fail);
        of_name.unwrap().largest_row_group().unwrap()
    };
    let footer = ParquetMetaDataReader::new()
        .parse_and_finish(&bytes::Bytes::from(with_image))
        .unwrap();
    let all = footer.row_group(0).compressed_size().unsigned_abs();
    let mut with_it = columns();
    with_it.keep.push("image".into());
    assert_eq!(largest(&with_it, "a.parquet").bytes, all);
    assert!(largest(&columns(), "a.parquet").bytes < all / 4, "{all}");
    // Nobody reads the image: there is more in 120 plain rows.
    let of_both = largest(&columns(), "*.parquet");
    assert!(
        of_both.object.ends_with("b.parquet") && of_both.rows == 120,
        "{of_both:?}"
    );
}

#[test]
fn held_out_rows_alone_are_those_of_all_rows() {
    let place = Place::new();
    let mut rows = plain(0, 23, 4);
    let sources = StringArray::from_iter((0..23).map(|i| (i % 5 != 0).then(|| format!("s{}", i % 7))));
    set(&mut rows, "source", Arc::new(sources));
    place.write("a.parquet", parquet(rows, 9));
    let mut rows = plain(23, 10, 4);
    set(&mut rows, "source", Arc::new(StringArray::from(vec![None::<&str>; 10])));
    place.write("b.parquet", parquet(rows, 100));
    let mut grouped = columns();
    grouped.holdout_group = Some("source".into());
    for columns in [columns(), grouped] {
        let catalogue = place.open(&columns).unwrap();
        let group = &plan_groups(catalogue.shards().to_vec(), 1000, "")[0];
        for fraction in [0.0, 0.3, 0.7, 1.0] {
            let spectra = |batches: Vec<SpectrumBatch>| -> Vec<String> {
                let rows = batches.iter().flat_map(|batch| {
                    let held_out = (0..batch.n_rows()).filter(|&row| is_held_out(batch.holdout[row], fraction));
                    held_out.map(|row| {
                        let one = batch.select(&[row]).unwrap();
                        let of_row = (&one.rows, &one.flux, &one.variance, &one.good, &one.labels);
                        format!("{of_row:?} {:?} {} {}", one.flags, one.holdout[0], one.shard.row_group)
                    })
                });
                rows.collect()
            };
            let all: Result<Vec<_>, _> = catalogue.fetch(group, 1000, 1 << 20).collect();
            let expected = spectra(all.unwrap());
            for batch_rows in [2, 1000] {
                let chosen: Result<Vec<_>, _> =
                    catalogue.fetch_held_out(group, fraction, batch_rows, 1 << 20).collect();
                let chosen = chosen.unwrap();
                let n_rows: usize = chosen.iter().map(SpectrumBatch::n_rows).sum();
                assert!(chosen.iter().all(|batch| (1..=batch_rows).contains(&batch.n_rows())));
                assert_eq!(
                    (n_rows, spectra(chosen)),
                    (expected.len(), expected.clone()),
                    "{fraction}"
                );
            }
        }
    }
}

#[test]
fn inverse_variances_masks_label_errors_and_groups_are_read() {
    let place = Place::new();
    let mut rows = plain(0, 3, 4);
    set(
        &mut rows,
        "ivar",
        floats(0, 3, 4, |_, p| if p == 3 { 0.0 } else { 4.0 }),
    );
    // Bit 1 is bad, bit 0 is not.
    set(&mut rows, "mask", ints(3, 4, |i, p| if p == i { 2 } else { 1 }));
    set(&mut rows, "cov", floats(0, 3, 4, |_, p| [4.0, 1.0, 1.0, 9.0][p]));
    let sources = StringArray::from(vec![Some("s"), None, Some("s")]);
    set(&mut rows, "source", Arc::new(sources));
    place.write("a.parquet", parquet(rows.clone(), 100));
    let mut columns = with_mask(columns());
    columns.error = FluxError::Ivar("ivar".into());
    columns.label_errors = LabelErrors::Covariance("cov".into());
    columns.holdout_group = Some("source".into());
    let batch = place.all(&columns).remove(0);
    assert_eq!(batch.good[..4], [false, true, true, false]);
    assert_eq!(batch.good[8..], [true, true, false, false]);
    assert_eq!(batch.variance[1], 0.25);
    assert_eq!(batch.label_covariance.unwrap()[..4], [4.0, 1.0, 1.0, 9.0]);
    assert_eq!(
        batch.holdout,
        [holdout_hash("s"), holdout_hash("star-1"), holdout_hash("s")]
    );
    // The same mask as booleans, and sigmas of labels.
    let place = Place::new();
    set(&mut rows, "mask", bools(3, 4, |i, p| p == i));
    set(&mut rows, "e_teff", f64s(0, 3, |_| 50.0));
    set(&mut rows, "e_logg", f64s(0, 3, |i| if i == 1 { f64::NAN } else { 0.5 }));
    place.write("a.parquet", parquet(rows, 100));
    columns.label_errors = LabelErrors::Sigma(vec!["e_teff".into(), "e_logg".into()]);
    let again = place.all(&columns).remove(0);
    assert_eq!(again.good, batch.good);
    assert_eq!(again.label_covariance.unwrap()[..4], [2500.0, 0.0, 0.0, 0.25]);
    assert!(again.flags[1].contains(RowFlags::LABEL_ERROR_MISSING));
}

#[test]
fn excluded_spectra_keep_their_place_without_their_flux() {
    let place = Place::new();
    place.write("a.parquet", parquet(plain(0, 6, 4), 3));
    let ids = |names: &[&str]| -> ArrayRef { Arc::new(StringArray::from(names.to_vec())) };
    place.write(
        "bad/plate.parquet",
        parquet(vec![("id", ids(&["star-1", "star-9"]))], 10),
    );
    place.write(
        "bad/nights.parquet",
        parquet(vec![("id", ids(&["star-4", "star-1"]))], 10),
    );
    let tables = [place.uri("bad/plate.parquet"), place.uri("bad/nights.parquet")];
    let catalogue = place.open(&columns()).unwrap().excluding(&tables).unwrap();
    assert_eq!(catalogue.excluded().unwrap().len(), 3);
    let mut flagged = Vec::new();
    for group in plan_groups(catalogue.shards().to_vec(), 1, "") {
        for batch in catalogue.fetch(&group, 2, 1 << 20) {
            let batch = batch.unwrap();
            for row in 0..batch.n_rows() {
                flagged.push(batch.is_excluded(row));
                assert_eq!(batch.is_bad(row), batch.is_excluded(row));
                assert_eq!(batch.n_pix_good[row], if batch.is_excluded(row) { 0 } else { 4 });
                assert_eq!(batch.is_labelled(row), !batch.is_excluded(row));
            }
        }
    }
    assert_eq!(flagged, [false, true, false, false, true, false]);

    let place_of = |name: &str, columns| {
        place.write(name, parquet(columns, 10));
        [place.uri(name)]
    };
    let refused = |tables: [String; 1]| {
        place
            .open(&columns())
            .unwrap()
            .excluding(&tables)
            .unwrap_err()
            .to_string()
    };
    let error = refused(place_of("bad/numbers.parquet", vec![("id", i64s(0, 2))]));
    assert!(
        error.contains("column \"id\"") && error.contains("is int64, expected a string as in"),
        "{error}"
    );
    let error = refused(place_of("bad/named.parquet", vec![("star", ids(&["a"]))]));
    assert!(error.contains("has no column \"id\""), "{error}");
    assert!(refused([place.uri("bad/none.parquet")]).contains("no object matches"));
}

#[test]
fn labelled_spectra_are_known_by_identifier_and_labels() {
    let place = Place::new();
    let mut rows = plain(0, 5, 4);
    let teff = vec![Some(5000.0), None, Some(5002.0), Some(5003.0), Some(5004.0)];
    set(&mut rows, "teff", Arc::new(Float64Array::from(teff)));
    place.write("a.parquet", parquet(rows, 2));
    let plate: ArrayRef = Arc::new(StringArray::from(vec!["star-3"]));
    place.write("bad/plate.parquet", parquet(vec![("id", plate)], 10));
    let catalogue = place.open(&columns()).unwrap();
    let catalogue = catalogue.excluding(&[place.uri("bad/plate.parquet")]).unwrap();
    let shards = catalogue.shards();
    let key = |i: usize| StarKey::of(&format!("star-{i}"), &[5000.0 + i as f64, 2.0 + 0.01 * i as f64]).unwrap();
    // One has no label, one is left out.
    assert_eq!(catalogue.star_keys(shards).unwrap(), [key(0), key(2), key(4)]);
    let requests = || place.stores.traffic().counts().requests;
    let asked = |shards: &[Shard]| {
        let before = requests();
        catalogue.star_keys(shards).unwrap();
        requests() - before
    };
    assert_eq!(shards.len(), 3);
    // The footer is read once for all row groups.
    assert!(asked(shards) < 3 * asked(&shards[..1]));
}

#[test]
fn every_object_of_an_exclude_list_is_checked() {
    let place = Place::new();
    let mut rows = plain(0, 6, 4);
    set(&mut rows, "id", i64s(0, 6));
    place.write("a.parquet", parquet(rows, 3));
    place.write("bad/1.parquet", parquet(vec![("id", i64s(0, 2))], 10));
    let excluding = || {
        let catalogue = place.open(&columns()).unwrap();
        catalogue.excluding(&[place.uri("bad/*.parquet")])
    };
    let excluded = excluding().unwrap();
    let list = excluded.excluded().unwrap();
    assert_eq!((list.len(), list.objects()), (2, &[place.uri("bad/1.parquet")][..]));
    place.write("bad/2.parquet", parquet(vec![("star", i64s(2, 2))], 10));
    let said = excluding().unwrap_err().to_string();
    assert!(said.contains("bad/2.parquet has no column \"id\""), "{said}");
    place.write("bad/2.parquet", parquet(vec![("id", f64s(2, 2, |i| i as f64))], 10));
    let said = excluding().unwrap_err().to_string();
    assert!(said.contains("bad/2.parquet is double, expected int64 as in"), "{said}");
}

/// Rows: null, short, null pixel, NaN pixel, good.
fn broken_flux() -> ArrayRef {
    let mut builder = ListBuilder::new(Float32Builder::new());
    let rows: [Option<Vec<Option<f32>>>; 5] = [
        None,
        Some(vec![Some(1.0)]),
        Some(vec![Some(1.0), None, Some(3.0)]),
        Some(vec![Some(1.0), Some(f32::NAN), Some(3.0)]),
        Some(vec![Some(1.0), Some(2.0), Some(3.0)]),
    ];
    for row in rows {
        let is_there = row.is_some();
        row.into_iter()
            .flatten()
            .for_each(|value| builder.values().append_option(value));
        builder.append(is_there);
    }
    Arc::new(builder.finish())
}

#[test]
fn broken_rows_are_flagged_and_keep_their_place() {
    let place = Place::new();
    let mut rows = plain(0, 5, 3);
    set(&mut rows, "flux", broken_flux());
    let labels = Float64Array::from(vec![Some(1.0), Some(1.0), Some(1.0), Some(1.0), None]);
    set(&mut rows, "teff", Arc::new(labels));
    place.write("a.parquet", parquet(rows, 2));
    let batches = place.all(&columns());
    assert_eq!(batches.iter().map(SpectrumBatch::n_rows).collect::<Vec<_>>(), [2, 2, 1]);
    let flags: Vec<RowFlags> = batches.iter().flat_map(|b| b.flags.clone()).collect();
    assert_eq!(
        flags,
        [
            RowFlags::FLUX_NULL,
            RowFlags::WRONG_LENGTH,
            RowFlags::PIXELS_MASKED,
            RowFlags::FLUX_NOT_FINITE,
            RowFlags::LABEL_MISSING
        ]
    );
    assert_eq!(batches[1].flux[..3], [1.0, 0.0, 3.0]);
    assert_eq!(batches[0].n_pixels, 3);
}

#[test]
fn no_flux_is_read_of_an_object_with_a_null_once_the_pixels_are_known() {
    let place = Place::new();
    let mut rows = plain(0, 5, 3);
    set(&mut rows, "flux", broken_flux());
    let mut damaged = parquet(rows.clone(), 5);
    let footer = u32::from_le_bytes(damaged[damaged.len() - 8..damaged.len() - 4].try_into().unwrap());
    let end = damaged.len() - 8 - footer as usize;
    // What is read of it would be an error.
    damaged[4..end].fill(0xff);
    place.write("a.parquet", parquet(rows, 5));
    place.write("b.parquet", damaged);
    let catalogue = place.open(&columns()).unwrap();
    assert_eq!((catalogue.n_pixels(), catalogue.n_rows()), (3, 10));
}

#[test]
fn no_match_names_the_pattern() {
    let place = Place::new();
    let error = place.open(&columns()).unwrap_err();
    assert!(
        matches!(&error, StoreError::NoMatch { uri, .. } if uri.ends_with("*.parquet")),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_objects_that_cannot_be_used() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    let path = |name: &str| place.directory.path().join(name);
    place.write("night/a.parquet", parquet(plain(0, 4, 3), 2));
    place.write("elsewhere/b.parquet", parquet(plain(4, 4, 3), 2));
    symlink("../elsewhere/b.parquet", path("night/b.parquet")).unwrap();
    let open = |name: &str, on_bad_object| Catalogue::open(&place.stores, &place.uri(name), &columns(), on_bad_object);
    assert_eq!(open("night", OnBadObject::Fail).unwrap().n_rows(), 8);
    // Neither an object nor a hidden one is missed where these lead nowhere.
    symlink("/not/there", path("night/notes.txt")).unwrap();
    symlink("/not/there", path("night/.lock.parquet")).unwrap();
    assert_eq!(open("night", OnBadObject::Fail).unwrap().n_rows(), 8);

    symlink("/not/mounted/c.parquet", path("night/c.parquet")).unwrap();
    symlink("/not/mounted/disk", path("other")).unwrap();
    for (uri, link, target, rows) in [
        ("night", "night/c.parquet", "/not/mounted/c.parquet", 8),
        ("night/*.parquet", "night/c.parquet", "/not/mounted/c.parquet", 8),
        ("night/c.parquet", "night/c.parquet", "/not/mounted/c.parquet", 0),
        ("other", "other", "/not/mounted/disk", 0),
        ("other/night/*.parquet", "other", "/not/mounted/disk", 0),
        // A folder of objects may be such a link, too.
        ("*/a.parquet", "other", "/not/mounted/disk", 4),
        ("*/b.parquet", "other", "/not/mounted/disk", 8),
    ] {
        let error = open(uri, OnBadObject::Fail).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, StoreError::DanglingObject { .. }), "{said}");
        let link = place.uri(link);
        assert!(said.contains(&link) && said.contains(target), "{uri}: {said}");
        match open(uri, OnBadObject::Skip) {
            Ok(catalogue) => {
                assert_eq!(catalogue.n_rows(), rows, "{uri}");
                let skipped = catalogue.skipped();
                assert_eq!(skipped.len(), 1, "{skipped:?}");
                assert_eq!(skipped[0].object, link);
                assert!(skipped[0].reason.contains(target), "{skipped:?}");
            }
            Err(error) => {
                assert_eq!(rows, 0, "{error}");
                let said = error.to_string();
                assert!(
                    said.contains("all 1 objects were left out") && said.contains(&link),
                    "{said}"
                );
            }
        }
    }
    let error = Table::open(&place.stores, &place.uri("night")).unwrap_err();
    assert!(matches!(error, StoreError::DanglingObject { .. }), "{error}");
}

#[test]
fn objects_in_folders_below_are_offered() {
    let place = Place::new();
    place.write("hive/night=1/a.parquet", parquet(plain(0, 4, 3), 2));
    place.write("text/notes/a.txt", vec![1]);
    let open = |name: &str| Catalogue::open(&place.stores, &place.uri(name), &columns(), OnBadObject::Fail);
    let said = open("hive").unwrap_err().to_string();
    let pattern = format!("{}/**/*.parquet", place.uri("hive"));
    assert!(said.contains("no object matches") && said.contains(&pattern), "{said}");
    let said = Table::open(&place.stores, &place.uri("hive")).unwrap_err().to_string();
    assert!(said.contains(&pattern), "{said}");
    assert_eq!(open("hive/**/*.parquet").unwrap().n_rows(), 4);
    for name in ["text", "text/*.parquet", "hive/*.parquet", "hive/night=2"] {
        let said = open(name).unwrap_err().to_string();
        assert!(said.contains("name an object, a directory"), "{said}");
    }
}

#[test]
fn a_folder_named_as_an_object_is_not_passed_over() {
    let place = Place::new();
    place.write("survey/a.parquet", parquet(plain(0, 4, 3), 2));
    place.write("survey/b.parquet/part-0.parquet", parquet(plain(4, 4, 3), 2));
    let folder = place.uri("survey/b.parquet");
    let open = |name: &str, on_bad_object| Catalogue::open(&place.stores, &place.uri(name), &columns(), on_bad_object);
    for uri in ["survey/*.parquet", "survey", "sur*/*.parquet"] {
        let error = open(uri, OnBadObject::Fail).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, StoreError::FolderOfObjects { .. }), "{uri}: {said}");
        assert!(said.contains(&format!("{folder}/*.parquet")), "{said}");
        let catalogue = open(uri, OnBadObject::Skip).unwrap();
        assert_eq!(catalogue.n_rows(), 4, "{uri}");
        let skipped = catalogue.skipped();
        assert!(skipped.len() == 1 && skipped[0].object == folder, "{skipped:?}");
        let error = Table::open(&place.stores, &place.uri(uri)).unwrap_err();
        assert!(matches!(error, StoreError::FolderOfObjects { .. }), "{error}");
    }
    // What else is below is not offered.
    place.write("other/c.parquet", parquet(plain(8, 4, 3), 2));
    for (uri, offered) in [
        ("survey", Some("survey/**/*.parquet")),
        ("sur*/*.parquet", Some("sur*/**/*.parquet")),
        ("survey/b*.parquet", None),
    ] {
        let said = open(uri, OnBadObject::Fail).unwrap_err().to_string();
        let offered = offered.map(|pattern| format!("{} reads them, too", place.uri(pattern)));
        assert_eq!(said.contains("**"), offered.is_some(), "{said}");
        assert!(offered.is_none_or(|offered| said.contains(&offered)), "{said}");
    }
    for (uri, rows) in [("survey/**/*.parquet", 8), ("survey/b.parquet", 4), ("survey/a*", 4)] {
        assert_eq!(open(uri, OnBadObject::Fail).unwrap().n_rows(), rows, "{uri}");
    }
    // Where nothing could be read, nothing is missed.
    place.stores.delete(&format!("{folder}/part-0.parquet")).unwrap();
    place.write("survey/b.parquet/_temporary/0/c.parquet", vec![1]);
    place.write("survey/b.parquet/.d.parquet", vec![1]);
    for uri in ["survey/*.parquet", "sur*/*.parquet"] {
        assert_eq!(open(uri, OnBadObject::Fail).unwrap().n_rows(), 4, "{uri}");
    }
}

#[test]
fn a_finished_output_below_a_pattern_is_refused_as_one() {
    let place = Place::new();
    place.write("survey/a.parquet", parquet(plain(0, 4, 3), 2));
    // With the columns that it kept it would do for spectra.
    place.write("survey/out/predictions/part-00000.parquet", parquet(plain(0, 4, 3), 2));
    let open = |name: &str, on_bad_object| Catalogue::open(&place.stores, &place.uri(name), &columns(), on_bad_object);
    let all = "survey/**/*.parquet";
    assert_eq!(open(all, OnBadObject::Fail).unwrap().n_rows(), 8);
    for document in ["claim.json", "manifest.json"] {
        place.write(&format!("survey/out/{document}"), b"{}".to_vec());
    }
    let output = place.uri("survey/out");
    let error = open(all, OnBadObject::Fail).unwrap_err();
    assert!(matches!(error, StoreError::OutputAmongObjects { .. }), "{error}");
    assert!(error.to_string().starts_with(&output), "{error}");
    let catalogue = open(all, OnBadObject::Skip).unwrap();
    let skipped = catalogue.skipped();
    assert_eq!((catalogue.n_rows(), skipped.len()), (4, 1));
    assert_eq!(skipped[0].object, output);
    // It is read where it is named.
    for uri in ["survey/out/**/*.parquet", "survey/out/predictions"] {
        assert_eq!(open(uri, OnBadObject::Fail).unwrap().n_rows(), 4, "{uri}");
    }
    assert_eq!(Table::open(&place.stores, &place.uri(all)).unwrap().n_rows(), 8);
}

#[test]
fn objects_that_are_no_parquet_are_told_apart() {
    let good = parquet(plain(0, 4, 3), 2);
    let cases: [(&str, Vec<u8>); 5] = [
        ("empty (0 bytes)", vec![]),
        ("truncated", good[..good.len() - 20].to_vec()),
        ("truncated", good[..good.len() / 2].to_vec()),
        ("not a Parquet file", b"SIMPLE  =                    T / FITS".to_vec()),
        ("not a Parquet file", b"x".to_vec()),
    ];
    for (says, bytes) in cases {
        let place = Place::new();
        place.write("a.parquet", good.clone());
        place.write("b.parquet", bytes);
        let error = place.open(&columns()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(says) && message.contains("b.parquet"), "{message}");
        let uri = place.uri("*.parquet");
        let catalogue = Catalogue::open(&place.stores, &uri, &columns(), OnBadObject::Skip).unwrap();
        assert_eq!((catalogue.n_rows(), catalogue.skipped().len()), (4, 1));
        assert!(catalogue.skipped()[0].object.ends_with("b.parquet"));
    }
}

/// The bytes of a Parquet file whose footer says something else of every column.
fn with_columns(bytes: &[u8], change: fn(ColumnChunkMetaDataBuilder) -> ColumnChunkMetaDataBuilder) -> Vec<u8> {
    let file = bytes::Bytes::from(bytes.to_vec());
    let footer = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
    let mut footer = footer.into_builder();
    let groups = footer.take_row_groups().into_iter().map(|group| {
        let mut group = group.into_builder();
        let columns = group.take_columns().into_iter();
        let columns = columns
            .map(|column| change(column.into_builder()).build().unwrap())
            .collect();
        group.set_column_metadata(columns).build().unwrap()
    });
    let groups = groups.collect();
    let footer = footer.set_row_groups(groups).build();
    let mut end = Vec::new();
    ParquetMetaDataWriter::new(&mut end, &footer).finish().unwrap();
    let length = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap());
    [&bytes[..bytes.len() - 8 - length as usize], end.as_slice()].concat()
}

#[test]
fn a_first_object_with_a_damaged_footer_is_named_and_can_be_skipped() {
    let good = parquet(plain(0, 4, 3), 2);
    let damages: [fn(ColumnChunkMetaDataBuilder) -> ColumnChunkMetaDataBuilder; 4] = [
        |column| column.set_total_compressed_size(-8),
        |column| column.set_data_page_offset(-8).set_dictionary_page_offset(None),
        |column| column.set_dictionary_page_offset(Some(i64::MIN)),
        |column| column.set_total_compressed_size(1 << 40),
    ];
    let place = Place::new();
    place.write("a.parquet", with_columns(&good, |column| column));
    assert_eq!(place.open(&columns()).unwrap().n_rows(), 4);
    for damage in damages {
        let place = Place::new();
        place.write("a.parquet", with_columns(&good, damage));
        place.write("b.parquet", good.clone());
        let error = place.open(&columns()).unwrap_err();
        let said = error.to_string();
        assert!(
            matches!(error, StoreError::BadRowGroup { row_group: 0, .. }),
            "{error:?}"
        );
        assert!(said.contains("a.parquet") && said.contains("damaged"), "{said}");
        let uri = place.uri("*.parquet");
        let catalogue = Catalogue::open(&place.stores, &uri, &columns(), OnBadObject::Skip).unwrap();
        assert_eq!((catalogue.n_rows(), catalogue.skipped().len()), (4, 1));
        let error = Table::open(&place.stores, &uri).unwrap_err();
        assert!(matches!(error, StoreError::BadRowGroup { .. }), "{error:?}");
    }
}

#[test]
fn all_objects_skipped_is_an_error() {
    let place = Place::new();
    place.write("a.parquet", vec![]);
    let uri = place.uri("*.parquet");
    let error = Catalogue::open(&place.stores, &uri, &columns(), OnBadObject::Skip).unwrap_err();
    assert!(error.to_string().contains("all 1 objects were left out"), "{error}");
}

#[test]
fn a_column_that_is_there_twice_is_refused() {
    let place = Place::new();
    let mut rows = plain(0, 4, 3);
    rows.push(("flux", floats(0, 4, 3, |_, _| 7.0)));
    place.write("a.parquet", parquet(rows, 2));
    let error = place.open(&columns()).unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, StoreError::RepeatedColumn { columns: 2, .. }), "{said}");
    assert!(said.contains("a.parquet") && said.contains("\"flux\""), "{said}");
    // One that nobody reads is nobody's concern.
    let mut rows = plain(0, 4, 3);
    rows.extend([("note", f64s(0, 4, |_| 0.0)), ("note", f64s(0, 4, |_| 1.0))]);
    place.write("a.parquet", parquet(rows, 2));
    assert_eq!(place.open(&columns()).unwrap().n_rows(), 4);
}

#[test]
fn columns_that_do_not_fit_are_named() {
    let place = Place::new();
    place.write("a.parquet", parquet(plain(0, 4, 3), 2));
    let mut missing = columns();
    missing.error = FluxError::Sigma("flux_er".into());
    let error = place.open(&missing).unwrap_err().to_string();
    assert!(
        error.ends_with("has no column \"flux_er\"; did you mean \"flux_err\"?"),
        "{error}"
    );
    let mut typed = columns();
    typed.labels[0] = "id".into();
    let error = place.open(&typed).unwrap_err().to_string();
    assert!(
        error.contains("column \"id\"") && error.contains("is a string, expected a number"),
        "{error}"
    );
    // A kept column of another type in the second object.
    let mut other = plain(0, 4, 3);
    set(&mut other, "snr", i64s(0, 4));
    place.write("b.parquet", parquet(other, 2));
    let error = place.open(&columns()).unwrap_err().to_string();
    assert!(
        error.contains("\"snr\"") && error.contains("b.parquet") && error.contains("a.parquet"),
        "{error}"
    );
}

#[test]
fn one_catalogue_has_one_number_of_pixels() {
    let place = Place::new();
    place.write("a.parquet", parquet(plain(0, 4, 3), 2));
    place.write("b.parquet", parquet(plain(4, 4, 5), 2));
    let error = place.open(&columns()).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::PixelCount {
                found: 5,
                expected: 3,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("b.parquet") && error.to_string().contains("a.parquet"));
}

/// A null counts as one value in a footer, so that it does not say how long the spectra beside it are.
#[test]
fn an_object_with_a_null_has_the_number_of_pixels_that_its_spectra_have() {
    let place = Place::new();
    let write = |name: &str, pixels: usize, rows: std::ops::Range<usize>| {
        let mut builder = ListBuilder::new(Float32Builder::new());
        for i in 0..8 {
            let is_there = rows.contains(&i);
            (0..pixels)
                .filter(|_| is_there)
                .for_each(|p| builder.values().append_value(flux(i, p)));
            builder.append(is_there);
        }
        let mut columns = plain(0, 8, pixels);
        set(&mut columns, "flux", Arc::new(builder.finish()));
        place.write(name, parquet(columns, 4));
    };
    write("a.parquet", 3, 0..8);
    for (pixels, rows) in [(5, 1..8), (4, 0..7), (2, 1..8), (300, 7..8)] {
        write("b.parquet", pixels, rows);
        let error = place.open(&columns()).unwrap_err();
        assert!(
            matches!(&error, StoreError::PixelCount { object, found, expected: 3, .. }
                if *found == pixels && object.ends_with("b.parquet")),
            "{error}"
        );
    }
    // The number of the others, or no flux at all.
    for (pixels, rows) in [(3, 1..8), (3, 7..8), (5, 0..0)] {
        write("b.parquet", pixels, rows);
        assert_eq!(place.open(&columns()).unwrap().n_rows(), 16);
    }
}

#[test]
fn an_odd_object_is_left_out_and_not_the_others() {
    let place = Place::new();
    let write = |name: &str, pixels: usize, snr: ArrayRef| {
        let mut rows = plain(0, 4, pixels);
        set(&mut rows, "snr", snr);
        place.write(name, parquet(rows, 2));
    };
    let doubles = || f64s(0, 4, |i| i as f64);
    let open = |on_bad_object| Catalogue::open(&place.stores, &place.uri("*.parquet"), &columns(), on_bad_object);
    write("b.parquet", 3, doubles());
    write("c.parquet", 3, doubles());
    for (pixels, snr, said) in [
        (3, i64s(0, 4), "a.parquet is int64, expected double as in"),
        (5, doubles(), "a.parquet have 5 pixels"),
    ] {
        write("a.parquet", pixels, snr);
        let error = open(OnBadObject::Fail).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("b.parquet"), "{error}");
        let catalogue = open(OnBadObject::Skip).unwrap();
        assert_eq!((catalogue.n_rows(), catalogue.n_pixels()), (8, 3));
        let skipped = catalogue.skipped();
        assert!(skipped.len() == 1 && skipped[0].reason.contains(said), "{skipped:?}");
    }
    // Of two kinds with as many objects neither is the odd one.
    write("d.parquet", 5, doubles());
    let error = open(OnBadObject::Skip).unwrap_err();
    let said = error.to_string();
    assert!(
        said.starts_with("2 of the 4 objects of") && said.contains("only fewer than half"),
        "{said}"
    );
    assert!(
        matches!(error, StoreError::NoMajority { source, .. } if matches!(*source, StoreError::PixelCount { .. })),
        "{said}"
    );
}

#[test]
fn the_network_says_how_many_pixels_are_meant() {
    let place = Place::new();
    for (name, pixels) in [("a", 5), ("b", 3), ("c", 5), ("d", 3), ("e", 5)] {
        place.write(&format!("{name}.parquet"), parquet(plain(0, 4, pixels), 2));
    }
    let open = |on_bad_object| {
        let uri = place.uri("*.parquet");
        Catalogue::open_knowing(&place.stores, &uri, &columns(), on_bad_object, Some(3), None)
    };
    let said = open(OnBadObject::Fail).unwrap_err().to_string();
    assert!(
        said.contains("a.parquet have 5 pixels in column \"flux\", and the network takes 3"),
        "{said}"
    );
    let catalogue = open(OnBadObject::Skip).unwrap();
    assert_eq!((catalogue.n_rows(), catalogue.n_pixels()), (8, 3));
    let skipped: Vec<bool> = catalogue
        .skipped()
        .iter()
        .map(|skipped| skipped.reason.contains("takes 3"))
        .collect();
    assert_eq!(skipped, [true; 3]);
}

#[test]
fn a_column_of_nothing_but_nulls_is_of_any_type() {
    let place = Place::new();
    let mut rows = plain(0, 4, 3);
    set(&mut rows, "snr", Arc::new(NullArray::new(4)));
    place.write("a.parquet", parquet(rows, 2));
    place.write("b.parquet", parquet(plain(4, 4, 3), 2));
    let batches = place.all(&columns());
    let snr: Vec<&ArrayRef> = batches.iter().map(|batch| batch.rows.column(1)).collect();
    assert!(
        snr.iter().all(|snr| snr.data_type().to_string() == "Float32"),
        "{snr:?}"
    );
    let nulls: usize = snr.iter().map(|snr| snr.null_count()).sum();
    assert_eq!(nulls, 4);
}

#[test]
fn only_the_objects_of_a_catalogue_are_asked_when_they_were_written() {
    let place = Place::new();
    place.write("a.parquet", parquet(plain(0, 4, 3), 2));
    place.write("b.parquet", parquet(plain(4, 4, 3), 2));
    let catalogue = place.open(&columns()).unwrap();
    let written_after = |moment: &str| catalogue.written_after(moment).unwrap();
    assert_eq!(
        written_after("1970-01-01T00:00:00Z"),
        [place.uri("a.parquet"), place.uri("b.parquet")]
    );
    assert!(written_after("9999-01-01T00:00:00Z").is_empty());
    // Beside them lies what can only be asked for, and one of them is gone.
    place.write("other/c.parquet", vec![1]);
    place.stores.delete(&place.uri("b.parquet")).unwrap();
    let asked = place.stores.traffic().counts().requests;
    assert_eq!(written_after("1970-01-01T00:00:00Z"), [place.uri("a.parquet")]);
    assert_eq!(place.stores.traffic().counts().requests - asked, 2);
}

#[test]
fn no_rows_at_all_is_a_catalogue() {
    let place = Place::new();
    place.write("a.parquet", parquet(plain(0, 0, 3), 2));
    let catalogue = place.open(&columns()).unwrap();
    assert_eq!(
        (catalogue.n_rows(), catalogue.n_pixels(), catalogue.shards().len()),
        (0, 0, 0)
    );
}

#[test]
fn damaged_pages_are_an_error_that_names_the_row_group() {
    let place = Place::new();
    let mut bytes = parquet(plain(0, 400, 30), 200);
    // The second row group lies in the second half, before the footer.
    let middle = bytes.len() * 11 / 20;
    let end = bytes.len() * 4 / 5;
    bytes[middle..end].fill(0xff);
    place.write("a.parquet", bytes);
    let table = Table::open(&place.stores, &place.uri("a.parquet")).unwrap();
    let error = table.batches(None, 1000).unwrap().last().unwrap().unwrap_err();
    assert!(
        matches!(&error, StoreError::BadRowGroup { row_group: 1, .. }),
        "{error:?}"
    );
    let catalogue = place.open(&columns()).unwrap();
    let group = plan_groups(catalogue.shards().to_vec(), 1 << 20, "").remove(0);
    for fetch in [
        catalogue.fetch(&group, 1000, 1 << 20),
        catalogue.fetch_held_out(&group, 0.3, 1000, 1 << 20),
    ] {
        let error = fetch.last().unwrap().err().unwrap();
        assert!(
            matches!(&error, StoreError::BadRowGroup { row_group: 1, .. }),
            "{error:?}"
        );
    }
}

#[test]
fn decoding_does_not_depend_on_batches() {
    let place = Place::new();
    place.write("a.parquet", parquet(plain(0, 50, 4), 20));
    let catalogue = place.open(&columns()).unwrap();
    let group = plan_groups(catalogue.shards().to_vec(), 1 << 20, "").remove(0);
    let read = |rows: usize| -> Vec<f64> {
        catalogue
            .fetch(&group, rows, 1 << 16)
            .flat_map(|batch| batch.unwrap().flux)
            .collect()
    };
    assert_eq!(read(7), read(1000));
}

/// More groups at a time than the runtime has threads for blocking work, each with batches that wait: a machine of many cores.
#[test]
fn any_number_of_groups_is_read_at_a_time() {
    let place = Place::new();
    place.write("a.parquet", parquet(plain(0, 6, 4), 2));
    let catalogue = place.open(&columns()).unwrap();
    let group = plan_groups(catalogue.shards().to_vec(), 1 << 20, "").remove(0);
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut reading: Vec<Fetch> = (0..600).map(|_| catalogue.fetch(&group, 1, 1)).collect();
        for row in 0..6 {
            for fetch in &mut reading {
                assert_eq!(fetch.next().unwrap().unwrap().flux[0], f64::from(flux(row, 0)));
            }
        }
        assert!(reading.iter_mut().all(|fetch| fetch.next().is_none()));
        done.send(()).unwrap();
    });
    finished.recv_timeout(std::time::Duration::from_secs(120)).unwrap();
}
