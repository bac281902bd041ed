//! A disk that is full: one line names the file and the remedy, nothing half written stays, and with more room the same run goes on. And what
//! the system allows of files.

use std::path::{Path, PathBuf};
use std::process::Command;

use fisherflow_tests::{RunFile, digests, fisherflow, has_manifest, network, run, simulated, write_objects};

/// A file system in memory of so many KiB, gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, saying so, where this user may not mount one.
    fn mount(folder: &Path, kib: u64) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={kib}k");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder.to_owned())),
            Ok(output) => {
                println!(
                    "skipped: no file system can be mounted: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                None
            }
            Err(error) => {
                println!("skipped: there is no mount: {error}");
                None
            }
        }
    }

    fn grow(&self, kib: u64) {
        let size = format!("remount,size={kib}k");
        let grown = Command::new("mount").args(["-o", &size]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The survey that the tests run over, in a folder of its own.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    network(&folder.path().join("network.safetensors"), &[40, 12, 6, 3]);
    write_objects(&folder.path().join("catalogue"), &simulated(40, 0, 240), 30);
    let file = RunFile::new(folder.path(), "undisturbed").write(folder.path(), "undisturbed");
    run(fisherflow().arg("run").arg(file)).expect_done();
    folder
}

/// A run below a limit of the shell's.
fn run_limited(limit: &str, file: &Path) -> Command {
    let mut limited = Command::new("bash");
    limited.arg("-c").arg(format!("{limit}; exec \"$0\" run \"$1\""));
    limited.arg(fisherflow().get_program()).arg(file).env("NO_COLOR", "1");
    limited
}

#[test]
fn a_limit_on_the_size_of_files_is_told_as_an_error() {
    let folder = prepared();
    let folder = folder.path();
    let file = RunFile::new(folder, "limited").write(folder, "limited");
    let output = folder.join("limited");
    // Room for the claim, and for no table of Jacobians.
    run(&mut run_limited("ulimit -f 4", &file))
        .expect(1, &["there is no room for", output.to_str().unwrap(), "ile too large"]);
    run(fisherflow().arg("run").arg(&file)).expect_done();
    assert_eq!(digests(&output), digests(&folder.join("undisturbed")));
}

#[test]
fn a_low_limit_on_open_files_that_may_be_raised_ends_no_run() {
    let folder = prepared();
    let folder = folder.path();
    let file = RunFile::new(folder, "limited").write(folder, "limited");
    // One file at a time.
    run(&mut run_limited("ulimit -S -n 4", &file)).expect_done();
    assert_eq!(digests(&folder.join("limited")), digests(&folder.join("undisturbed")));
}

#[test]
fn a_full_disk_is_named_and_the_run_goes_on_with_more_room() {
    let folder = prepared();
    let folder = folder.path();
    let undisturbed = digests(&folder.join("undisturbed"));
    let whole: u64 = undisturbed
        .keys()
        .map(|file| {
            std::fs::metadata(folder.join("undisturbed").join(file))
                .unwrap()
                .len()
                .div_ceil(4096)
                * 4
        })
        .sum();

    // From room for nothing but the claim to room for nearly all.
    for (number, kib) in [8, whole / 4, whole / 2, whole - 4].into_iter().enumerate() {
        let name = format!("small-{number}");
        let Some(disk) = SmallDisk::mount(&folder.join(&name), kib) else {
            return;
        };
        let output = disk.0.join("out");
        let file = RunFile::new(folder, &format!("{name}/out")).write(folder, &name);
        let ended = run(fisherflow().arg("run").arg(&file));
        let place = output.to_str().unwrap().to_owned();
        ended.expect(
            1,
            &["there is no room for", &place, "free some", "o space left on device"],
        );
        assert!(!has_manifest(&output), "{kib} KiB");
        let left = Command::new("find")
            .arg(&disk.0)
            .args(["-name", "*#*"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "", "{kib} KiB");
        disk.grow(4 * whole + 1024);
        run(fisherflow().arg("run").arg(&file)).expect_done();
        assert_eq!(digests(&output), undisturbed, "{kib} KiB");
    }
}
