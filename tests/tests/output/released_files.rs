//! Releases whose groups leave files of their own: what the commit of one names stays, whatever is released after it.

use fisherflow_tests::{RunFile, digests, everything_in, fisherflow_on, network, simulated, write_catalogue};

const PIXELS: usize = 24;

#[test]
fn what_a_release_names_stays_where_the_same_run_is_released_again() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    network(&folder.join("network.safetensors"), &[PIXELS, 8, 3]);
    write_catalogue(
        &folder.join("catalogue"),
        "night.parquet",
        &simulated(PIXELS, 0, 240),
        30,
    );
    // The catalogue of the fit is the one to predict: its groups leave Jacobians in the release.
    let run_file = RunFile::new(folder, "line");
    let file = run_file.write(folder, "line");
    std::fs::write(&file, format!("{}releases = true\n", run_file.toml())).unwrap();
    fisherflow_on("run", &file, &[]).expect_done();
    let line = folder.join("line");
    let groups = line.join("groups");
    let read = |name: &String| std::fs::read(groups.join(name)).ok();
    let named: Vec<_> = everything_in(&groups)
        .into_iter()
        .map(|name| (read(&name), name))
        .collect();
    assert!(named.iter().any(|(_, name)| name.ends_with(".done")), "{named:?}");

    fisherflow_on("run", &file, &["--overwrite"]).expect_done();
    for (then, name) in &named {
        assert_eq!(read(name), *then, "{name}");
    }
    let release = |number: u64| line.join(format!("releases/{number}"));
    assert_eq!(digests(&release(1)), digests(&release(2)));
}
