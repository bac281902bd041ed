//! The store's own client through the faulty proxy: conditional creations whose answer is lost, uploads in parts, listings.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::{Float64Array, RecordBatch};
use fisherflow_store::{Creation, FileMetadata, Patience, StoreError, StoreOptions, Stores, WrittenFile, write_table};
use fisherflow_tests::{Bucket, Fault, FaultyProxy, On, sha256};
use rand::{Rng, SeedableRng};

const BUCKET: &str = "fisherflow-store-clients";

fn stores(endpoint: &str, retries: usize) -> Stores {
    let pairs = [
        ("aws_access_key_id", "test"),
        ("aws_secret_access_key", "test-test"),
        ("aws_region", "us-east-1"),
        ("aws_endpoint_url", endpoint),
    ];
    let options = StoreOptions {
        s3: pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        patience: Patience {
            retries,
            timeout: Duration::from_secs(20),
            ..Patience::default()
        },
        ..StoreOptions::default()
    };
    Stores::new(options, 2).unwrap()
}

fn reached() -> Option<(Bucket, FaultyProxy)> {
    let bucket = Bucket::new(BUCKET)?;
    let proxy = FaultyProxy::start(bucket.endpoint(), 5);
    Some((bucket, proxy))
}

#[test]
fn a_creation_whose_answer_is_lost_is_known_as_ours() {
    let Some((bucket, proxy)) = reached() else { return };
    let stores = stores(&proxy.endpoint(), 3);
    let create = |key: &str, bytes: &[u8]| stores.create_once(&bucket.uri(key), bytes.to_vec()).unwrap();
    proxy.add(On::put("lost").times(1), Fault::LoseAnswer);
    assert_eq!(create("lost", b"me"), Creation::Ours);
    assert_eq!(create("lost", b"you"), Creation::Others(b"me".to_vec()));
    assert_eq!(create("other", b"me"), Creation::Created);

    // Every answer is lost, the last one too: it stands there none the less.
    proxy.add(On::put("all-lost"), Fault::LoseAnswer);
    assert_eq!(create("all-lost", b"me"), Creation::Ours);
    // No request arrives: an error, and nothing there.
    proxy.add(On::put("never"), Fault::Reset);
    let error = stores.create_once(&bucket.uri("never"), b"me".to_vec()).unwrap_err();
    assert!(matches!(error, StoreError::Exhausted { attempts: 4, .. }), "{error}");
    assert_eq!(bucket.get("never"), None);
    assert!(stores.retries() >= 7, "{}", stores.retries());
}

/// A file of three parts or more: numbers that do not compress.
fn large(stores: &Stores, uri: &str) -> Result<WrittenFile, StoreError> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let batches = (0..6).map(|_| {
        let values: Vec<f64> = (0..1_000_000).map(|_| random.random()).collect();
        RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(values)) as _)]).unwrap()
    });
    write_table(stores, uri, batches.collect::<Vec<_>>(), &FileMetadata::default())
}

fn expect_whole(bucket: &Bucket, key: &str, written: &WrittenFile) {
    let bytes = bucket.get(key).unwrap();
    assert_eq!(
        (bytes.len() as u64, &sha256(&bytes)),
        (written.bytes, &written.sha256),
        "{key}"
    );
}

#[test]
fn an_upload_in_parts_survives_faults_of_every_step() {
    let Some((bucket, proxy)) = reached() else { return };
    let stores = stores(&proxy.endpoint(), 5);
    proxy.add(On::post("uploads").times(1), Fault::slow_down());
    proxy.add(On::post("uploads").times(1), Fault::ResetInBody(20));
    proxy.add(On::put("partNumber=2").times(2), Fault::slow_down());
    proxy.add(On::put("partNumber=1&").times(1), Fault::LoseAnswer);
    proxy.add(On::post("uploadId=").times(1), Fault::internal_error());
    let written = large(&stores, &bucket.uri("parts.parquet")).unwrap();
    assert!(proxy.count("PUT", "partNumber=") >= 3 + 3, "{:?}", proxy.counts());
    assert!(proxy.faults() >= 6, "{}", proxy.faults());
    expect_whole(&bucket, "parts.parquet", &written);
}

#[test]
fn an_upload_whose_end_was_heard_and_not_answered_is_known_to_be_there() {
    let Some((bucket, proxy)) = reached() else { return };
    let stores = stores(&proxy.endpoint(), 5);
    proxy.add(On::post("uploadId=").times(1), Fault::LoseAnswer);
    let written = large(&stores, &bucket.uri("heard.parquet")).unwrap();
    assert_eq!(proxy.count("POST", "uploadId="), 2);
    expect_whole(&bucket, "heard.parquet", &written);

    // A part that cannot be sent at all ends the file, and leaves nothing.
    proxy.clear();
    proxy.add(On::put("partNumber=2"), Fault::internal_error());
    let error = large(&stores, &bucket.uri("failed.parquet")).unwrap_err();
    assert!(matches!(&error, StoreError::Exhausted { attempts: 6, .. }), "{error}");
    assert!(
        error.to_string().contains("failed.parquet could not be written"),
        "{error}"
    );
    assert_eq!(bucket.get("failed.parquet"), None);
    let began = std::time::Instant::now();
    while proxy.count("DELETE", "failed.parquet") == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "its parts are never deleted");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_listing_goes_on_where_it_was_cut_off() {
    let Some((bucket, proxy)) = reached() else { return };
    // More than one page of a thousand.
    for i in 0..1_100 {
        bucket.put(&format!("many/{i:05}"), b"x");
    }
    let stores = stores(&proxy.endpoint(), 3);
    // At any depth, and of one folder alone.
    for (uri, faults) in [("many", 4), ("many/*", 8)] {
        // Four failures in all, and patience for three: what came in between begins it anew.
        proxy.add(On::get("list-type").times(2), Fault::ResetInBody(500));
        proxy.add(On::get("list-type").after(1).times(2), Fault::ResetInBody(500));
        let listed = if uri.contains('*') {
            stores.list(&bucket.uri(uri)).unwrap()
        } else {
            stores.list_all(&bucket.uri(uri)).unwrap()
        };
        assert_eq!(listed.len(), 1_100, "{uri}");
        assert!(listed.windows(2).all(|pair| pair[0].path < pair[1].path), "{uri}");
        assert_eq!(proxy.faults(), faults, "{uri}");
    }
}

#[test]
fn a_read_goes_on_at_the_byte_where_it_was_cut_off() {
    let Some((bucket, proxy)) = reached() else { return };
    let bytes: Vec<u8> = (0..50_000_u32).map(|i| (i % 251) as u8).collect();
    bucket.put("read", &bytes);
    let stores = stores(&proxy.endpoint(), 3);
    proxy.add(On::get("read").times(1), Fault::ResetInBody(10_000));
    proxy.add(On::get("read").times(1), Fault::Truncate(5_000));
    assert_eq!(stores.read(&bucket.uri("read")).unwrap(), bytes);
    let requests = proxy.requests();
    let ranges: Vec<Option<&str>> = requests
        .iter()
        .filter(|request| request.method == "GET")
        .map(|request| request.range.as_deref())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=10000-49999"), Some("bytes=15000-49999")]);

    // Another version in between is an error, not the end of the one and the beginning of the other.
    let other: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
    let replaced = bucket.clone();
    proxy.add(On::get("read").times(1), Fault::ResetInBody(10_000));
    proxy.add(
        On::get("read").times(1),
        Fault::first(move || replaced.put("read", &other)),
    );
    let error = stores.read(&bucket.uri("read")).unwrap_err();
    assert!(
        matches!(&error, StoreError::Replaced { object, .. } if object.ends_with("/read")),
        "{error}"
    );
}
