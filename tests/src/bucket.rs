//! A bucket of the tests' S3 server, reached without the program's own client.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::binary::fisherflow;
use crate::output::sha256;
use crate::outside::s3_endpoint;

/// The folders of an output that hold data.
const DATA: [&str; 3] = ["predictions/", "jacobians/", "posterior/"];
/// The secret key of the tests' commands: no output may show it.
pub const SECRET: &str = "hunter2-hunter2";

const UNSIGNED: &str =
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// A folder of its own in a bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    endpoint: String,
    root: String,
}

impl Bucket {
    /// A new folder in a bucket; `None`, saying so, where the tests have no S3 server.
    ///
    /// # Panics
    /// The server does not make the bucket.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let endpoint = s3_endpoint()?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_nanos());
        let bucket = Self {
            root: format!("{name}/{now}"),
            endpoint,
        };
        let (status, answer) = bucket.ask("PUT", name, &[]);
        let said = String::from_utf8_lossy(&answer);
        assert!(status == 200 || said.contains("BucketAlreadyOwnedByYou"), "{said}");
        Some(bucket)
    }

    /// The server's own endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The URI of something in it.
    #[must_use]
    pub fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.root)
    }

    /// Puts an object.
    ///
    /// # Panics
    /// The server refuses.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let (status, answer) = self.ask("PUT", &format!("{}/{key}", self.root), bytes);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    }

    /// An object; `None` where it is not there.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let (status, bytes) = self.ask("GET", &format!("{}/{key}", self.root), &[]);
        (status == 200).then_some(bytes)
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// The server refuses.
    pub fn delete(&self, key: &str) {
        let (status, answer) = self.ask("DELETE", &format!("{}/{key}", self.root), &[]);
        assert_eq!(status, 204, "{}", String::from_utf8_lossy(&answer));
    }

    /// The keys that begin with `<folder>/`, in order.
    ///
    /// # Panics
    /// The server does not list them.
    #[must_use]
    pub fn list(&self, folder: &str) -> Vec<String> {
        let (bucket, root) = self.root.split_once('/').unwrap_or((&self.root, ""));
        let (mut keys, mut from) = (Vec::new(), String::new());
        loop {
            let query = format!("{bucket}?list-type=2&prefix={root}/{folder}/&start-after={from}");
            let (status, answer) = self.ask("GET", &query, &[]);
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert_eq!(status, 200, "{answer}");
            let found = answer
                .split("<Key>")
                .skip(1)
                .filter_map(|rest| rest.split("</Key>").next());
            let before = keys.len();
            keys.extend(found.map(str::to_owned));
            match keys.last() {
                Some(last) if keys.len() > before && answer.contains("<IsTruncated>true") => from.clone_from(last),
                _ => break,
            }
        }
        let inner = keys.iter().filter_map(|key| key.strip_prefix(root)?.strip_prefix('/'));
        inner.map(str::to_owned).collect()
    }

    /// The manifest of an output.
    ///
    /// # Panics
    /// There is none, or it is not JSON.
    #[must_use]
    pub fn manifest(&self, output: &str) -> Value {
        let bytes = self.get(&format!("{output}/manifest.json")).expect("a manifest");
        serde_json::from_slice(&bytes).expect("a manifest is JSON")
    }

    /// SHA-256 of every data file that an output's manifest lists, computed here, and compared with what it says.
    ///
    /// # Panics
    /// There is no manifest, or a file is missing or another one.
    #[must_use]
    pub fn digests(&self, output: &str) -> BTreeMap<String, String> {
        let manifest = self.manifest(output);
        let files = manifest["files"].as_array().expect("a manifest lists files");
        let paths = files
            .iter()
            .filter_map(|file| Some((file["path"].as_str()?, file["sha256"].as_str()?)));
        paths
            .filter(|(path, _)| DATA.iter().any(|folder| path.starts_with(folder)))
            .map(|(path, listed)| {
                let bytes = self.get(&format!("{output}/{path}")).expect("a file that is listed");
                let digest = sha256(&bytes);
                assert_eq!(digest, listed, "{path}");
                (path.to_owned(), digest)
            })
            .collect()
    }

    /// Sends a request whose signature nobody looks at: the server of the tests asks only that there be one.
    fn ask(&self, method: &str, path: &str, bytes: &[u8]) -> (u16, Vec<u8>) {
        let host = self.endpoint.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(host).expect("the S3 server takes connections");
        let head = format!(
            "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {UNSIGNED}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            bytes.len()
        );
        stream.write_all(head.as_bytes()).expect("a request can be sent");
        stream.write_all(bytes).expect("a request can be sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer can be read");
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("an answer has a head");
        let body = answer.split_off(end + 4);
        let status = String::from_utf8_lossy(&answer)
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        (status.expect("an answer has a status"), body)
    }
}

/// The binary with an S3 endpoint, and without credentials.
#[must_use]
pub fn on_s3_without_keys(endpoint: &str) -> Command {
    let mut command = fisherflow();
    for (name, value) in [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
    ] {
        command.env(name, value);
    }
    command
}

/// The binary with an S3 endpoint and keys of which one is [`SECRET`].
#[must_use]
pub fn on_s3(endpoint: &str) -> Command {
    let mut command = on_s3_without_keys(endpoint);
    command.env("AWS_ACCESS_KEY_ID", "test");
    command.env("AWS_SECRET_ACCESS_KEY", SECRET);
    command
}
