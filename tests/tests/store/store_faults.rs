//! A store that misbehaves, through a faulty proxy in front of the S3 server: what passes changes no bit of the result; what does not is one
//! clear line, and the same run again goes on to the same bits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fisherflow_tests::{
    Bucket, Ended, Fault, FaultyProxy, On, RunFile, SECRET, network, on_s3, parquet_bytes, run, simulated,
};

const BUCKET: &str = "fisherflow-store-faults";
const PIXELS: usize = 40;
/// Spectra of an object, in two row groups.
const OBJECT: usize = 30;

/// A network and a catalogue on S3, and what an undisturbed run makes of them.
struct Survey {
    bucket: Bucket,
    folder: tempfile::TempDir,
    undisturbed: BTreeMap<String, String>,
}

impl Survey {
    fn new() -> Option<Self> {
        let bucket = Bucket::new(BUCKET)?;
        let folder = tempfile::tempdir().unwrap();
        let network_file = folder.path().join("network.safetensors");
        network(&network_file, &[PIXELS, 12, 6, 3]);
        bucket.put("network.safetensors", &std::fs::read(network_file).unwrap());
        for (part, chunk) in simulated(PIXELS, 0, 240).chunks(OBJECT).enumerate() {
            bucket.put(&object(part), &parquet_bytes(chunk, OBJECT / 2));
        }
        let mut survey = Self {
            bucket,
            folder,
            undisturbed: BTreeMap::new(),
        };
        survey.run("undisturbed", "", &survey.direct()).expect_done();
        survey.undisturbed = survey.bucket.digests("undisturbed");
        assert!(survey.undisturbed.len() >= 8, "{:?}", survey.undisturbed);
        Some(survey)
    }

    /// A proxy without rules.
    fn direct(&self) -> FaultyProxy {
        self.proxy(0)
    }

    fn proxy(&self, seed: u64) -> FaultyProxy {
        FaultyProxy::start(self.bucket.endpoint(), seed)
    }

    /// The run file of an output, with lines of `[store]`.
    fn run_file(&self, output: &str, store: &str) -> PathBuf {
        let folder = self.folder.path();
        let toml = RunFile::new(folder, output).toml();
        let toml = toml.replace(folder.to_str().unwrap(), self.bucket.uri("").trim_end_matches('/'));
        let file = folder.join(format!("{output}.toml"));
        std::fs::write(&file, format!("{toml}\n[store]\n{store}\n")).unwrap();
        file
    }

    fn run(&self, output: &str, store: &str, proxy: &FaultyProxy) -> Ended {
        let ended = run(on_s3(&proxy.endpoint())
            .arg("run")
            .arg(self.run_file(output, store))
            .args(["-w", "2"]));
        assert!(
            !ended.stderr.contains(SECRET) && !ended.stdout.contains(SECRET),
            "{ended}"
        );
        ended
    }

    /// The same run again, undisturbed, goes on to the same bits.
    fn expect_to_go_on(&self, output: &str) {
        assert_eq!(self.bucket.get(&format!("{output}/manifest.json")), None);
        self.run(output, "", &self.direct()).expect_done();
        assert_eq!(self.bucket.digests(output), self.undisturbed, "{output}");
    }
}

fn object(part: usize) -> String {
    format!("catalogue/part-{part:05}.parquet")
}

/// Object 4 with other spectra: of the same size or nearly so, and another etag.
fn replacement() -> Vec<u8> {
    parquet_bytes(&simulated(PIXELS, 5_000, OBJECT as u64), OBJECT / 2)
}

#[test]
fn what_passes_changes_no_bit() {
    let Some(survey) = Survey::new() else { return };
    let survey = &survey;
    let conflict = || Fault::conflict("ConditionalRequestConflict");
    let cases: [Case; 4] = [
        (
            "refused",
            "",
            1,
            vec![
                (On::put("claims/").times(6), conflict()),
                (On::put(".done").times(3), conflict()),
                (On::put("stages/fit.json").times(1), Fault::conflict("OperationAborted")),
                (On::put("manifest.json").times(1), conflict()),
                (On::any().chance(0.1), Fault::slow_down()),
                (On::any().chance(0.1), Fault::internal_error()),
            ],
        ),
        (
            "cut",
            "",
            1,
            vec![
                (On::get("list-type").times(2), Fault::ResetInBody(200)),
                (On::get("network").times(1), Fault::Truncate(1000)),
                (On::get(".parquet").chance(0.2), Fault::ResetInBody(700)),
                (On::get(".parquet").chance(0.2), Fault::Truncate(1000)),
                (On::any().chance(0.1), Fault::Reset),
                (On::any().chance(0.1), Fault::ResetInHead),
            ],
        ),
        (
            "lost",
            "",
            1,
            vec![
                (On::put("claim.json").times(2), Fault::LoseAnswer),
                (On::put("manifest.json").times(2), Fault::LoseAnswer),
                (On::post("delete").times(3), Fault::LoseAnswer),
                (On::any().chance(0.3), Fault::LoseAnswer),
            ],
        ),
        (
            "slow",
            "timeout_seconds = 2",
            4,
            vec![
                (On::get("list-type").times(1), Fault::Stall),
                (On::get(&object(3)).after(1).times(1), Fault::Stall),
                (On::put("predictions").times(1), Fault::Stall),
                (
                    On::get(&object(2)).after(1).times(1),
                    Fault::Trickle(500, Duration::from_millis(300)),
                ),
            ],
        ),
    ];
    // Each mostly waits before it tries again.
    std::thread::scope(|scope| {
        for (seed, case) in (0..).zip(cases) {
            let named = std::thread::Builder::new().name(case.0.to_owned());
            named
                .spawn_scoped(scope, move || changes_no_bit(survey, seed, case))
                .unwrap();
        }
    });
    // Nobody notices: alone, for a server with much to do may be one that somebody does.
    let delay = Fault::Delay(Duration::from_millis(50));
    changes_no_bit(survey, 4, ("late", "", 0, vec![(On::any().chance(0.3), delay)]));
}

/// An output, lines of `[store]`, how many requests at least are made again, and what goes wrong.
type Case = (&'static str, &'static str, u64, Vec<(On, Fault)>);

fn changes_no_bit(survey: &Survey, seed: u64, (name, store, again, rules): Case) {
    let proxy = survey.proxy(seed);
    for (on, fault) in rules {
        proxy.add(on, fault);
    }
    let ended = survey.run(name, store, &proxy);
    let applied = proxy.applied();
    println!(
        "{name}: by rule {applied:?} of {} requests faulty",
        proxy.requests().len()
    );
    ended.expect_done();
    assert!(applied.iter().all(|&faults| faults > 0), "{name}: {applied:?}");
    assert_eq!(survey.bucket.digests(name), survey.undisturbed, "{name}");
    let resources = &survey.bucket.manifest(name)["settings"]["resources"];
    let retries = resources["store_retries"].as_u64().unwrap();
    assert!(
        retries >= again && (retries > 0) == (again > 0),
        "{name}: {retries} retries"
    );
    assert_eq!(
        ended.stderr.contains("the store failed: trying again"),
        again > 0,
        "{ended}"
    );
}

#[test]
fn a_store_that_stays_away_is_named_and_the_run_goes_on_later() {
    let Some(survey) = Survey::new() else { return };
    // A read of a row group, a write, and nothing at all any more.
    let hasty = "retries = 2\ntimeout_seconds = 1";
    let proxy = survey.proxy(1);
    proxy.add(On::get(&object(5)).after(1), Fault::slow_down());
    let ended = survey.run("read", hasty, &proxy);
    let requests = proxy.requests();
    let mut of_object = requests.iter().filter(|request| request.target.contains(&object(5)));
    let range = of_object.next_back().unwrap().range.clone().unwrap();
    let bytes = format!("(bytes {})", range.trim_start_matches("bytes="));
    let uri = survey.bucket.uri(&object(5));
    ended.expect(75, &[&uri, &bytes, "3 attempts", "SlowDown", "start the run again"]);
    survey.expect_to_go_on("read");

    let proxy = survey.proxy(2);
    proxy.add(On::put("posterior/").after(1), Fault::internal_error());
    let ended = survey.run("write", hasty, &proxy);
    ended.expect(
        75,
        &[
            "/write/posterior/",
            "could not be written",
            "3 attempts",
            "InternalError",
        ],
    );
    survey.expect_to_go_on("write");

    let proxy = std::sync::Arc::new(survey.proxy(3));
    let cut = std::sync::Arc::downgrade(&proxy);
    let partition = Fault::first(move || {
        if let Some(proxy) = cut.upgrade() {
            proxy.partition();
        }
    });
    proxy.add(On::any().after(40).times(1), partition);
    let ended = survey.run("partition", hasty, &proxy);
    ended.expect(
        75,
        &["3 attempts", "start the run again", "retries, and timeout_seconds"],
    );
    survey.expect_to_go_on("partition");
}

#[test]
fn an_object_that_is_replaced_is_never_half_read() {
    let Some(survey) = Survey::new() else { return };
    let old = survey.bucket.get(&object(4)).unwrap();
    let replace = |survey: &Survey| {
        let bucket = survey.bucket.clone();
        Fault::first(move || bucket.put(&object(4), &replacement()))
    };
    // Before its first row group is read, between two, and between two parts of one body.
    type Rules = Vec<(On, Fault)>;
    let cases: [(&str, Rules); 3] = [
        (
            "before",
            vec![(On::get(&object(4)).after(1).times(1), replace(&survey))],
        ),
        (
            "between",
            vec![(On::get(&object(4)).after(2).times(1), replace(&survey))],
        ),
        (
            "within",
            vec![
                (On::get(&object(4)).after(1).times(1), Fault::ResetInBody(300)),
                (On::get(&object(4)).after(1).times(1), replace(&survey)),
            ],
        ),
    ];
    for (name, rules) in cases {
        survey.bucket.put(&object(4), &old);
        let proxy = survey.proxy(0);
        for (on, fault) in rules {
            proxy.add(on, fault);
        }
        let ended = survey.run(name, "", &proxy);
        let uri = survey.bucket.uri(&object(4));
        let planned = format!("planned with {} bytes, etag", old.len());
        let found = format!("found {} bytes, etag", replacement().len());
        ended.expect(3, &[&uri, "was replaced", &planned, &found, "--overwrite"]);
        assert_eq!(survey.bucket.get(&format!("{name}/manifest.json")), None, "{name}");
    }
    // A new plan takes the new version, all of it.
    let fresh = survey.run("fresh", "", &survey.direct());
    fresh.expect_done();
    let direct = survey.direct();
    let again = run(on_s3(&direct.endpoint())
        .arg("run")
        .arg(survey.run_file("within", ""))
        .arg("--overwrite"));
    again.expect_done();
    assert_eq!(survey.bucket.digests("within"), survey.bucket.digests("fresh"));
    assert_ne!(survey.bucket.digests("fresh"), survey.undisturbed);
}

#[test]
fn credentials_that_run_out_are_had_anew_or_named() {
    let Some(survey) = Survey::new() else { return };
    let proxy = survey.proxy(0);
    proxy.add(On::any().after(40), Fault::expired_token());
    let ended = survey.run("static", "", &proxy);
    ended.expect(
        1,
        &[
            "no longer good",
            "AWS_ACCESS_KEY_ID",
            "ExpiredToken",
            "start the run again",
        ],
    );
    survey.expect_to_go_on("static");

    // Keys in a file, which somebody renews.
    let keys = survey.folder.path().join("keys");
    write_keys(&keys, "old-key");
    let proxy = survey.proxy(0);
    let renewed = keys.clone();
    let renew = Fault::first(move || write_keys(&renewed, "new-key"));
    let old = || On::any().with_header("authorization", "Credential=old-key/").after(40);
    proxy.add(old().times(1), renew);
    proxy.add(old(), Fault::expired_token());
    let mut command = fisherflow_tests::on_s3_without_keys(&proxy.endpoint());
    command
        .env("AWS_SHARED_CREDENTIALS_FILE", &keys)
        .env("AWS_PROFILE", "night");
    let ended = run(command.arg("run").arg(survey.run_file("file", "")));
    ended.expect_done();
    assert_eq!(survey.bucket.digests("file"), survey.undisturbed);

    // Nobody renews them: their file and profile are named.
    write_keys(&keys, "old-key");
    proxy.clear();
    proxy.add(old(), Fault::expired_token());
    let mut command = fisherflow_tests::on_s3_without_keys(&proxy.endpoint());
    command
        .env("AWS_SHARED_CREDENTIALS_FILE", &keys)
        .env("AWS_PROFILE", "night");
    let ended = run(command.arg("run").arg(survey.run_file("stale", "retries = 2")));
    ended.expect(1, &["no longer good", "profile night of", keys.to_str().unwrap()]);
    survey.expect_to_go_on("stale");

    // A container's, served with another key from the second time on.
    let service = container_credentials();
    let token = survey.folder.path().join("token");
    std::fs::write(&token, "let me in").unwrap();
    let proxy = survey.proxy(0);
    proxy.add(
        On::any().with_header("authorization", "Credential=key-0/").after(40),
        Fault::expired_token(),
    );
    let mut command = fisherflow_tests::on_s3_without_keys(&proxy.endpoint());
    command
        .env(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("http://{service}/credentials"),
        )
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token);
    let ended = run(command.arg("run").arg(survey.run_file("container", "")));
    ended.expect_done();
    assert!(proxy.faults() > 0);
    assert_eq!(survey.bucket.digests("container"), survey.undisturbed);
}

/// Replaces the file as `mv` does: no reader sees half of it.
fn write_keys(file: &Path, key: &str) {
    let beside = file.with_extension("new");
    let text = format!("[night]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\naws_session_token = t\n");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, file).unwrap();
}

/// Serves credentials as a container's agent does: each time under another key, all good for a day.
fn container_credentials() -> std::net::SocketAddr {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (served, stream) in listener.incoming().flatten().enumerate() {
            let mut stream = stream;
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let body = format!(
                "{{\"AccessKeyId\": \"key-{served}\", \"SecretAccessKey\": \"{SECRET}\", \"Token\": \"t\", \
                 \"Expiration\": \"2099-01-01T00:00:00Z\"}}"
            );
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    address
}
