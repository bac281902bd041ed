//! The conformance suite on S3, where `FISHERFLOW_TEST_S3_ENDPOINT` names an endpoint (for instance `moto_server`); and what is said where
//! S3 does not answer.

#[path = "support/conformance.rs"]
#[allow(dead_code, reason = "every test file uses its own part of it")]
mod conformance;
#[allow(dead_code, reason = "every test file uses its own part of it")]
mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fisherflow_store::*;

fn options(pairs: &[(&str, &str)]) -> StoreOptions {
    StoreOptions {
        s3: pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..StoreOptions::default()
    }
}

/// The endpoint, and its bucket `fisherflow-test`, made if it is not there.
fn endpoint() -> Option<String> {
    let Ok(endpoint) = std::env::var("FISHERFLOW_TEST_S3_ENDPOINT") else {
        println!("skipped: FISHERFLOW_TEST_S3_ENDPOINT is not set");
        return None;
    };
    let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    let request =
        format!("PUT /fisherflow-test HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    Some(endpoint)
}

#[test]
fn s3_conforms() {
    let Some(endpoint) = endpoint() else { return };
    let options = options(&[
        ("aws_access_key_id", "test"),
        ("aws_secret_access_key", "hunter2-hunter2"),
        ("aws_region", "us-east-1"),
        ("aws_endpoint_url", &endpoint),
    ]);
    let stores = Stores::new(options, 2).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    conformance::conform(&stores, &format!("s3://fisherflow-test/{}", now.as_nanos()));
    let object = format!("s3://fisherflow-test/{}.parquet", now.as_nanos());
    stores.write(&object, vec![1]).unwrap();
    let listed = stores.list("s3://fisherflow-test").unwrap();
    assert!(listed.iter().any(|listed| listed.path == object), "{listed:?}");
    stores.delete(&object).unwrap();
    let error = stores.list("s3://no-such-bucket-here/x/*.parquet").unwrap_err();
    assert!(error.to_string().contains("no-such-bucket-here"), "{error}");
}

#[test]
fn a_wrong_endpoint_is_told_within_seconds_and_without_secrets() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let options = options(&[
        ("aws_access_key_id", "AKIAHUNTER"),
        ("aws_secret_access_key", "hunter2-hunter2"),
        ("aws_region", "us-east-1"),
        ("endpoint", &endpoint),
    ]);
    let stores = Stores::new(options, 1).unwrap();
    let started = Instant::now();
    let error = stores.list("s3://survey/training/*.parquet").unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(30));
    let message = error.to_string();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(
        message.contains(&endpoint) && message.contains("s3://survey"),
        "{message}"
    );
    let all = format!("{error:?} {stores:?}");
    assert!(!all.contains("hunter2") && !all.contains("AKIAHUNTER"), "{all}");
}

#[test]
fn missing_credentials_are_told_with_the_remedy() {
    // Where an instance role would be asked for, nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let options = options(&[
        ("aws_region", "us-east-1"),
        ("aws_metadata_endpoint", &format!("http://127.0.0.1:{port}")),
    ]);
    // A path in which one letter is wrong: that file is passed over, and named.
    let path = "/nowhere/credentails".to_owned();
    let with_file = StoreOptions {
        credentials_file: Some(CredentialsFile {
            path: path.clone(),
            profile: "default".to_owned(),
        }),
        ..options.clone()
    };
    for (options, named) in [(options, "AWS_ACCESS_KEY_ID"), (with_file, path.as_str())] {
        let stores = Stores::new(options, 1).unwrap();
        let error = stores.read("s3://survey/network.safetensors").unwrap_err();
        assert!(matches!(error, StoreError::NoCredentials { .. }), "{error:?}");
        let said = with_causes(&error);
        assert!(said.contains("AWS_ACCESS_KEY_ID") && said.contains(named), "{said}");
    }
}

/// An instance whose metadata are switched off answers 403: that is not the bucket's word.
#[test]
fn credentials_that_are_refused_to_us_are_not_called_a_bucket_that_is() {
    let metadata = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", metadata.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut connection in metadata.incoming().flatten() {
            let mut asked = [0; 1024];
            let _ = connection.read(&mut asked);
            let _ = connection.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let options = options(&[("aws_region", "us-east-1"), ("aws_metadata_endpoint", &endpoint)]);
    let stores = Stores::new(options, 1).unwrap();
    let error = stores.read("s3://survey/network.safetensors").unwrap_err();
    assert!(matches!(error, StoreError::NoCredentials { .. }), "{error:?}");
}

#[test]
fn unknown_options_are_refused() {
    let error = Stores::new(options(&[("aws_regoin", "x")]), 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown S3 option \"aws_regoin\"; did you mean \"aws_region\"?"
    );
}
