//! A whole run on S3: network and catalogue read from it, the output written to it.

use std::path::Path;

use fisherflow_tests::{
    Bucket, Processes, RunFile, SECRET, consumer, fisherflow, has_manifest, network, on_s3, parquet_bytes, run,
    simulated, write_objects,
};

const PIXELS: usize = 40;
const BUCKET: &str = "fisherflow-end-to-end";

/// The same run file with every local path of `folder` under `root`.
fn moved(run_file: &RunFile, folder: &Path, root: &str) -> String {
    run_file.toml().replace(folder.to_str().unwrap(), root)
}

#[test]
fn a_run_on_s3_gives_what_a_run_on_disk_gives() {
    let Some(bucket) = Bucket::new(BUCKET) else { return };
    let endpoint = bucket.endpoint();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &[PIXELS, 12, 6, 3]);
    let mut spectra = simulated(PIXELS, 0, 240);
    spectra[7].flux = None;
    spectra[9].ivar.as_mut().unwrap()[..3].fill(0.0);
    write_objects(&folder.join("catalogue"), &spectra, 30);
    let run_file = RunFile::new(folder, "out");
    run(fisherflow().arg("run").arg(run_file.write(folder, "local"))).expect_done();
    assert!(has_manifest(&folder.join("out")));

    bucket.put(
        "network.safetensors",
        &std::fs::read(folder.join("network.safetensors")).unwrap(),
    );
    for (part, chunk) in spectra.chunks(30).enumerate() {
        bucket.put(&format!("catalogue/part-{part:05}.parquet"), &parquet_bytes(chunk, 30));
    }
    let root = bucket.uri("").trim_end_matches('/').to_owned();
    let file = folder.join("s3.toml");
    std::fs::write(&file, moved(&run_file, folder, &root)).unwrap();
    let ended = run(on_s3(endpoint).arg("run").arg(&file).args(["-w", "2"]));
    ended.expect_done();
    assert!(
        !ended.stdout.contains(SECRET) && !ended.stderr.contains(SECRET),
        "{ended}"
    );
    let out = format!("{root}/out");
    run(on_s3(endpoint).arg("verify").arg(&out)).expect_done();
    let again = run(on_s3(endpoint).arg("run").arg(&file));
    again.expect_done();
    assert!(again.stdout.contains("nothing to do"), "{again}");

    // Three processes that know nothing of one another but the output.
    let meeting = folder.join("meeting.toml");
    std::fs::write(
        &meeting,
        moved(&run_file, folder, &root).replace(&out, &format!("{root}/met")),
    )
    .unwrap();
    let mut processes = Processes::new(3);
    for process in 0..3 {
        let mut command = on_s3(endpoint);
        command.arg("run").arg(&meeting);
        command.args(["-n", "3", "-p", &process.to_string(), "--rendezvous=127.0.0.1"]);
        processes.spawn_as(process, command);
    }
    for ended in processes.wait_all() {
        ended.expect_done();
    }
    let met = format!("{root}/met");
    run(on_s3(endpoint).arg("verify").arg(&met)).expect_done();
    let status = run(on_s3(endpoint).arg("status").arg(&met));
    assert!(
        status.stdout.contains("predict done") && !status.stdout.contains("rendezvous"),
        "{status}"
    );

    // A vector on S3 beside a run file that names nothing there.
    bucket.put("v.txt", b"1 2");
    let ended = run(on_s3(endpoint)
        .arg("output-hessian")
        .arg(folder.join("local.toml"))
        .args(["--id", spectra[0].id.as_deref().unwrap()])
        .args(["--product", &format!("{root}/v.txt")]));
    ended.expect(2, &["the vector of --product has 2 values"]);

    // Another run on the complete output is refused: the claim is a conditional put.
    let other = folder.join("other.toml");
    std::fs::write(
        &other,
        moved(&run_file, folder, &root).replace("precision = 2.0", "precision = 3.0"),
    )
    .unwrap();
    run(on_s3(endpoint).arg("run").arg(&other)).expect(2, &["already holds the finished run"]);

    // Run ids differ, for they name etags; the values do not.
    let local = folder.join("out").to_str().unwrap().to_owned();
    if let Some(found) = consumer(
        "same_on_s3.py",
        [
            endpoint.to_owned(),
            BUCKET.to_owned(),
            out.replace(&format!("s3://{BUCKET}/"), ""),
            local,
        ],
    ) {
        println!("{found:#}");
        assert_eq!(found["stars"], 240);
        assert!(found["tables"].as_u64().unwrap() >= 10, "{found}");
    }
}

/// As the console of S3 makes them, and Hadoop.
#[test]
fn the_markers_of_folders_are_no_files_of_an_output() {
    let Some(bucket) = Bucket::new(BUCKET) else { return };
    let folder = tempfile::tempdir().unwrap();
    network(&folder.path().join("network.safetensors"), &[PIXELS, 6, 3]);
    write_objects(&folder.path().join("catalogue"), &simulated(PIXELS, 0, 120), 60);
    let mut run_file = RunFile::new(folder.path(), "out");
    run_file.output = bucket.uri("out");
    let file = run_file.write(folder.path(), "s3");
    bucket.put("out/", b"");
    assert_eq!(bucket.list("out"), ["out/"]);
    run(on_s3(bucket.endpoint()).arg("run").arg(&file)).expect_done();
    for marker in ["out/predictions/", "out/posterior/inverse/"] {
        bucket.put(marker, b"");
    }
    run(on_s3(bucket.endpoint()).arg("verify").arg(bucket.uri("out"))).expect_done();
    run(on_s3(bucket.endpoint()).arg("run").arg(&file).arg("--overwrite")).expect_done();
}

#[test]
fn an_object_that_is_not_on_s3_is_named() {
    let Some(bucket) = Bucket::new(BUCKET) else { return };
    let folder = tempfile::tempdir().unwrap();
    let run_file = RunFile::new(folder.path(), "out");
    let file = folder.path().join("s3.toml");
    let root = bucket.uri("not-there");
    std::fs::write(&file, moved(&run_file, folder.path(), &root)).unwrap();
    let said = [&format!("{root}/network.safetensors"), "does not exist"];
    run(on_s3(bucket.endpoint()).arg("run").arg(&file)).expect(3, &said);
}
