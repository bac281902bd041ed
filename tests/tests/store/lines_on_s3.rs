//! A line on S3: what a night reads, counted between the program and the store.

use std::collections::BTreeSet;

use fisherflow_tests::{Bucket, FaultyProxy, RunFile, network, on_s3, parquet_bytes, run, simulated};
use serde_json::Value;

const PIXELS: usize = 24;
const ROWS: u64 = 6;
const OBJECTS: u64 = 60;
const BUCKET: &str = "fisherflow-lines";

/// The objects of the catalogue that were read after the first so many requests.
fn read_of_catalogue(proxy: &FaultyProxy, before: usize) -> BTreeSet<String> {
    let requests = &proxy.requests()[before..];
    let of_catalogue = requests
        .iter()
        .filter(|request| request.method == "GET" && request.target.contains("/catalogue/"));
    of_catalogue
        .filter_map(|request| request.target.split('?').next()?.rsplit('/').next())
        .map(str::to_owned)
        .collect()
}

fn name(number: u64) -> String {
    format!("night-{number:04}.parquet")
}

#[test]
fn a_fit_reads_the_objects_of_touched_groups_alone() {
    let Some(bucket) = Bucket::new(BUCKET) else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let network_file = folder.join("network.safetensors");
    network(&network_file, &[PIXELS, 8, 3]);
    bucket.put("network.safetensors", &std::fs::read(network_file).unwrap());
    let write = |number: u64, place: u64| {
        let bytes = parquet_bytes(&simulated(PIXELS, place * ROWS, ROWS), ROWS as usize);
        bucket.put(&format!("catalogue/{}", name(number)), &bytes);
    };
    (0..OBJECTS).for_each(|object| write(2 * object, object));
    let mut run_file = RunFile::new(folder, "line");
    run_file.compute = "precision = \"f64\"\nbatch = 8\ngroup = 24".to_owned();
    run_file.predict = Some(format!("{}/first.parquet", folder.display()));
    bucket.put("first.parquet", &parquet_bytes(&simulated(PIXELS, 0, 12), 6));
    let root = bucket.uri("").trim_end_matches('/').to_owned();
    let toml = run_file.toml().replace(folder.to_str().unwrap(), &root);
    let file = folder.join("line.toml");
    std::fs::write(&file, format!("{toml}releases = true\n")).unwrap();

    let proxy = FaultyProxy::start(bucket.endpoint(), 0);
    run(on_s3(&proxy.endpoint()).arg("run").arg(&file)).expect_done();
    assert_eq!(read_of_catalogue(&proxy, 0).len() as u64, OBJECTS);

    for (number, place) in [(1, 300), (51, 301), (90, 302)] {
        write(number, place);
    }
    bucket.delete(&format!("catalogue/{}", name(40)));
    let before = proxy.requests().len();
    run(on_s3(&proxy.endpoint()).arg("fit").arg(&file)).expect_done();
    let read = read_of_catalogue(&proxy, before);
    run(on_s3(bucket.endpoint()).arg("run").arg(&file)).expect_done();
    let commit = bucket.get("line/commits/2.json").unwrap();
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
