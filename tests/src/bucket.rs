//! A place of its own on the S3 server of the tests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use fisherflow_store::{StoreOptions, Stores};

use crate::binary::fisherflow;

/// What the server is asked with: it accepts any key.
const KEYS: [(&str, &str); 4] = [
    ("aws_allow_http", "true"),
    ("aws_access_key_id", "test"),
    ("aws_secret_access_key", "hunter2-hunter2"),
    ("aws_region", "us-east-1"),
];

/// A prefix of a bucket.
pub struct Bucket {
    endpoint: String,
    /// `s3://<bucket>/<prefix>`.
    pub root: String,
    stores: Stores,
}

impl Bucket {
    /// A new prefix of a bucket of the server at `endpoint`.
    ///
    /// # Panics
    /// The server does not make it.
    #[must_use]
    pub fn new(endpoint: &str, bucket: &str) -> Self {
        put(endpoint, bucket, &[]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut options = vec![("aws_endpoint_url".to_owned(), endpoint.to_owned())];
        options.extend(KEYS.map(|(key, value)| (key.to_owned(), value.to_owned())));
        Self {
            endpoint: endpoint.to_owned(),
            root: format!("s3://{bucket}/{}", now.map_or(0, |now| now.as_nanos())),
            stores: Stores::new(StoreOptions { s3: options }, 2).expect("options of S3"),
        }
    }

    /// A command of the binary that reaches the server at `endpoint`: this one, or what stands before it.
    #[must_use]
    pub fn command_through(&self, endpoint: &str) -> Command {
        let mut command = fisherflow();
        command.env("AWS_ENDPOINT_URL", endpoint);
        command.envs(KEYS.map(|(key, value)| (key.to_uppercase(), value)));
        command
    }

    /// A command of the binary that reaches the server.
    #[must_use]
    pub fn command(&self) -> Command {
        self.command_through(&self.endpoint)
    }

    /// Copies a file or a folder of a disk to `<root>/<name>`.
    ///
    /// # Panics
    /// It cannot be read, or the server does not take it.
    pub fn upload(&self, from: &Path, name: &str) {
        if from.is_dir() {
            for entry in std::fs::read_dir(from).expect("a folder can be read").flatten() {
                let inner = format!("{name}/{}", entry.file_name().to_string_lossy());
                self.upload(&entry.path(), &inner);
            }
        } else {
            let bytes = std::fs::read(from).expect("a file can be read");
            self.stores
                .write(&format!("{}/{name}", self.root), bytes)
                .expect("the server takes an object");
        }
    }

    /// Copies everything under `<root>/<name>` to a folder that is not there yet.
    ///
    /// # Panics
    /// The server does not give it, or the folder cannot be written.
    pub fn download(&self, name: &str, to: &Path) {
        let uri = format!("{}/{name}", self.root);
        for object in self.stores.list_all(&uri).expect("the server lists") {
            let relative = object
                .path
                .strip_prefix(&uri)
                .unwrap_or_default()
                .trim_start_matches('/');
            let file = to.join(relative);
            std::fs::create_dir_all(file.parent().unwrap_or(to)).expect("a folder can be made");
            let bytes = self.stores.read(&object.path).expect("the server gives what it lists");
            std::fs::write(file, bytes).expect("a file can be written");
        }
    }
}

/// Puts an object, or makes a bucket, without a signature: the server of the tests asks for none.
///
/// # Panics
/// The server does not take it.
pub fn put(endpoint: &str, path: &str, bytes: &[u8]) {
    let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(host).expect("the server listens");
    let head = format!(
        "PUT /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes()).expect("the server hears");
    stream.write_all(bytes).expect("the server hears");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers");
    assert!(
        answer.starts_with("HTTP/1.1 200") || answer.contains("BucketAlreadyOwnedByYou"),
        "{answer}"
    );
}
