//! A line on S3: what a night reads, counted between the program and the store.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use fisherflow_store::{StoreOptions, Stores};
use fisherflow_tests::{RunFile, fisherflow, network, parquet_bytes, run, s3_endpoint, simulated};
use serde_json::Value;

const PIXELS: usize = 24;
const ROWS: u64 = 6;
const OBJECTS: u64 = 60;
const BUCKET: &str = "fisherflow-lines";

/// Lets requests through to a server, and writes down what was asked for.
struct Counter {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Counter {
    fn before(endpoint: &str) -> Self {
        let server = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noting = Arc::clone(&asked);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, noting) = (server.clone(), Arc::clone(&noting));
                std::thread::spawn(move || {
                    let Ok(there) = TcpStream::connect(&server) else {
                        return;
                    };
                    let (mut answers, mut back) = (there.try_clone().unwrap(), client.try_clone().unwrap());
                    std::thread::spawn(move || drop(std::io::copy(&mut answers, &mut back)));
                    note(client, there, &noting);
                });
            }
        });
        Self { address, asked }
    }

    /// The objects of the catalogue that were read since the last look.
    fn read_of_catalogue(&self) -> BTreeSet<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let of_catalogue = asked
            .iter()
            .filter(|line| line.starts_with("GET ") && line.contains("/catalogue/"));
        of_catalogue
            .filter_map(|line| line.split(' ').nth(1)?.split('?').next()?.rsplit('/').next())
            .map(str::to_owned)
            .collect()
    }
}

/// Passes on what a client says, and notes the first line of each request.
fn note(mut from: TcpStream, mut to: TcpStream, asked: &Mutex<Vec<String>>) {
    let mut buffer = vec![0; 1 << 16];
    let mut line: Vec<u8> = Vec::new();
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        for &byte in &buffer[..n] {
            if byte == b'\n' {
                if line.ends_with(b" HTTP/1.1\r") {
                    asked.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
                }
                line.clear();
            } else if line.len() < 4096 {
                line.push(byte);
            }
        }
        if to.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// How the server of the tests is reached.
const SETTINGS: [(&str, &str); 4] = [
    ("AWS_ALLOW_HTTP", "true"),
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_REGION", "us-east-1"),
];

/// Makes the bucket, without a signature: the server of the tests asks for none.
fn make_bucket(endpoint: &str) {
    let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!("PUT /{BUCKET} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") || answer.contains("BucketAlreadyOwnedByYou"),
        "{answer}"
    );
}

fn on_s3(endpoint: &str) -> Command {
    let mut command = fisherflow();
    command.env("AWS_ENDPOINT_URL", endpoint).envs(SETTINGS);
    command
}

fn name(number: u64) -> String {
    format!("night-{number:04}.parquet")
}

#[test]
fn a_fit_reads_the_objects_of_touched_groups_alone() {
    let Some(endpoint) = s3_endpoint() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &[PIXELS, 8, 3]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let at = format!("s3://{BUCKET}/{now}");
    make_bucket(&endpoint);
    let mut s3 = vec![("aws_endpoint_url".to_owned(), endpoint.clone())];
    s3.extend(SETTINGS.map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned())));
    let options = StoreOptions {
        s3,
        ..StoreOptions::default()
    };
    let stores = Stores::new(options, 2).unwrap();
    let put = |name: &str, bytes: Vec<u8>| stores.write(&format!("{at}/{name}"), bytes).unwrap();
    put(
        "network.safetensors",
        std::fs::read(folder.join("network.safetensors")).unwrap(),
    );
    let write = |number: u64, place: u64| {
        let bytes = parquet_bytes(&simulated(PIXELS, place * ROWS, ROWS), ROWS as usize);
        put(&format!("catalogue/{}", name(number)), bytes);
    };
    (0..OBJECTS).for_each(|object| write(2 * object, object));
    let mut run_file = RunFile::new(folder, "line");
    run_file.compute = "precision = \"f64\"\nbatch = 8\ngroup = 24".to_owned();
    run_file.predict = Some(format!("{}/first.parquet", folder.display()));
    put("first.parquet", parquet_bytes(&simulated(PIXELS, 0, 12), 6));
    let toml = run_file.toml().replace(folder.to_str().unwrap(), &at);
    let file = folder.join("line.toml");
    std::fs::write(&file, format!("{toml}releases = true\n")).unwrap();

    let counter = Counter::before(&endpoint);
    run(on_s3(&counter.address).arg("run").arg(&file)).expect_done();
    assert_eq!(counter.read_of_catalogue().len() as u64, OBJECTS);

    for (number, place) in [(1, 300), (51, 301), (90, 302)] {
        write(number, place);
    }
    stores.delete(&format!("{at}/catalogue/{}", name(40))).unwrap();
    run(on_s3(&counter.address).arg("fit").arg(&file)).expect_done();
    let read = counter.read_of_catalogue();
    run(on_s3(&endpoint).arg("run").arg(&file)).expect_done();
    let commit = stores.read(&format!("{at}/line/commits/2.json")).unwrap();
    let commit: Value = serde_json::from_slice(&commit).unwrap();
    let touched: BTreeSet<u64> = commit["changes"]["touched"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group.as_u64().unwrap())
        .collect();
    let objects = commit["objects"].as_array().unwrap();
    let mut expected: BTreeSet<String> = BTreeSet::new();
    for (at, group) in (0..).zip(commit["groups"].as_array().unwrap()) {
        for shard in group["shards"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|_| touched.contains(&at))
        {
            let path = objects[shard[0].as_u64().unwrap() as usize]["path"].as_str().unwrap();
            expected.insert(path.rsplit('/').next().unwrap().to_owned());
        }
    }
    assert_eq!(read, expected);
    assert!((read.len() as u64) < OBJECTS / 2, "{read:?}");
}
