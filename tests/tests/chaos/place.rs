//! The runs that are disturbed: where their data are, what they ask for, and what an undisturbed process leaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fisherflow_tests::{
    Attempt, Bucket, Ends, Fault, FaultyProxy, On, RunFile, counts, digests, everything_in, fisherflow, manifest,
    network, on_s3, run, simulated, toml_path, write_objects,
};

const PIXELS: usize = 48;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    /// Kronecker factors and an exact block: one pass over the spectra.
    Kfac,
    /// Corrected eigenvalues: two.
    Ekfac,
}

/// What an undisturbed run of one process and worker leaves.
struct Undisturbed {
    digests: BTreeMap<String, String>,
    counts: BTreeMap<String, u64>,
    took: Duration,
}

/// A network, a catalogue of twelve groups and one of six to predict.
pub struct Place {
    folder: tempfile::TempDir,
    /// Where everything is instead, behind a proxy that misbehaves now and then; the folder then holds copies.
    bucket: Option<(Bucket, FaultyProxy)>,
    expected: BTreeMap<Case, Undisturbed>,
}

impl Place {
    pub fn on_disk(cases: &[Case]) -> Self {
        Self::new(cases, None)
    }

    /// `None` where the tests have no S3 server.
    pub fn on_s3(cases: &[Case], seed: u64) -> Option<Self> {
        let bucket = Bucket::new("fisherflow-chaos")?;
        let proxy = FaultyProxy::start(bucket.endpoint(), seed);
        Some(Self::new(cases, Some((bucket, proxy))))
    }

    fn new(cases: &[Case], bucket: Option<(Bucket, FaultyProxy)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        network(&path.join("network.safetensors"), &[PIXELS, 16, 8, 3]);
        write_objects(&path.join("catalogue"), &simulated(PIXELS, 0, 480), 40);
        write_objects(&path.join("stars"), &simulated(PIXELS, 10_000, 240), 40);
        let mut place = Self {
            folder,
            bucket,
            expected: BTreeMap::new(),
        };
        if let Some((bucket, _)) = &place.bucket {
            for name in everything_in(place.path()) {
                bucket.put(&name, &std::fs::read(place.path().join(&name)).unwrap());
            }
        }
        for &case in cases {
            let name = format!("undisturbed-{case:?}");
            let started = Instant::now();
            run(place.command().arg("run").arg(place.run_file(case, &name))).expect_done();
            let output = place.fetched(&name);
            let undisturbed = Undisturbed {
                took: started.elapsed(),
                digests: digests(&output),
                counts: counts(&output),
            };
            println!(
                "{case:?}: undisturbed in {:?}, {} data files",
                undisturbed.took,
                undisturbed.digests.len()
            );
            place.expected.insert(case, undisturbed);
        }
        if let Some((_, proxy)) = &place.bucket {
            let rarely = [
                Fault::slow_down(),
                Fault::internal_error(),
                Fault::Reset,
                Fault::LoseAnswer,
                Fault::ResetInBody(100),
            ];
            for fault in rarely {
                proxy.add(On::any().chance(0.01), fault);
            }
        }
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// An output, on this disk.
    fn fetched(&self, name: &str) -> PathBuf {
        let folder = self.path().join(name);
        if let Some((bucket, _)) = &self.bucket {
            let _ = std::fs::remove_dir_all(&folder);
            for key in bucket.list(name) {
                let file = folder.join(key.strip_prefix(&format!("{name}/")).unwrap());
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, bucket.get(&key).expect("what is listed is there")).unwrap();
            }
        }
        folder
    }

    fn command(&self) -> Command {
        match &self.bucket {
            Some((_, proxy)) => on_s3(&proxy.endpoint()),
            None => fisherflow(),
        }
    }

    fn run_file(&self, case: Case, output: &str) -> PathBuf {
        let mut file = RunFile::new(self.path(), output).predicting(self.path(), "stars");
        file.curvature = match case {
            Case::Kfac => "structure = \"kfac\"\n[curvature.layers]\n\"layers.4\" = \"block\"",
            Case::Ekfac => "structure = \"ekfac\"\n[curvature.layers]\n\"layers.4\" = \"block\"",
        }
        .to_owned();
        file.prior = "precision = \"evidence\"".to_owned();
        file.compute = "batch = 16\ngroup = 40".to_owned();
        let path = file.write(self.path(), output);
        if let Some((bucket, _)) = &self.bucket {
            let toml = file
                .toml()
                .replace(&format!("{}/", toml_path(self.path())), &bucket.uri(""));
            std::fs::write(&path, toml).unwrap();
        }
        path
    }

    /// How long an undisturbed run takes, on a machine that is not busier than it was at its idlest here.
    pub fn took(&self) -> Duration {
        self.expected.values().map(|run| run.took).min().unwrap_or_default()
    }

    pub fn attempt(&self, case: Case, output: &str, attempt: &Attempt) -> Ends {
        attempt.run(&self.run_file(case, output), || self.command())
    }

    /// The output is complete, holds the undisturbed run's bits and counts, and nothing else.
    pub fn assert_whole(&self, case: Case, name: &str) {
        let (output, expected) = (self.fetched(name), &self.expected[&case]);
        assert_eq!(digests(&output), expected.digests, "{name}");
        assert_eq!(counts(&output), expected.counts, "{name}");
        let files = manifest(&output)["files"].as_array().unwrap().clone();
        let mut listed: Vec<String> = files
            .iter()
            .map(|file| file["path"].as_str().unwrap().to_owned())
            .chain(["_SUCCESS", "claim.json", "manifest.json", "report.html"].map(str::to_owned))
            .collect();
        listed.sort();
        assert_eq!(
            everything_in(&output),
            listed,
            "{name}: all that is there, and all that is listed"
        );
    }
}
