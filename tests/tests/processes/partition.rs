//! Hosts that are cut off from one another: every process ends in time with exit code 75, and the same run again, once the network is mended,
//! goes on and writes the same bits.
//!
//! Each host is a network namespace, made and removed here; where that is not allowed the test says so and passes.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fisherflow_tests::{
    Processes, RunFile, digests, fisherflow, has_manifest, network, run, simulated, stages_left, write_objects,
};

/// What a process may be silent for.
const PEER_TIMEOUT: Duration = Duration::from_secs(3);
/// What a busy machine may take beyond it: nothing here is fast by design.
const SLACK: Duration = Duration::from_secs(10);

/// Three hosts on one wire, each a network namespace: the first holds the bridge.
struct Hosts {
    names: [String; 3],
}

impl Hosts {
    /// `None`, with the reason printed, where this process may not make them.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let hosts = Self {
            names: [0, 1, 2].map(|i| format!("ff{id}-{i}")),
        };
        let [first, second, third] = &hosts.names;
        let mut lines = vec![
            format!("netns add {first}"),
            format!("netns add {second}"),
            format!("netns add {third}"),
            format!("-n {first} link add wire type bridge"),
            format!("-n {first} addr add 10.77.0.1/24 dev wire"),
            format!("-n {first} link set wire up"),
        ];
        for (port, name) in [second, third].into_iter().enumerate() {
            let address = port + 2;
            lines.extend([
                format!("-n {first} link add port{port} type veth peer name eth0 netns {name}"),
                format!("-n {first} link set port{port} master wire up"),
                format!("-n {name} addr add 10.77.0.{address}/24 dev eth0"),
                format!("-n {name} link set eth0 up"),
            ]);
        }
        lines.extend(hosts.names.iter().map(|name| format!("-n {name} link set lo up")));
        for line in lines {
            if let Err(reason) = ip(&line) {
                println!("skipped: no network namespaces here: ip {line}: {reason}");
                return None;
            }
        }
        Some(hosts)
    }

    fn address(host: usize) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// Lets nothing pass between two hosts any more, and tells neither.
    fn cut(&self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            ip(&format!(
                "-n {} route replace blackhole {}",
                self.names[from],
                Self::address(to)
            ))
            .unwrap();
        }
    }

    /// Takes a host off the wire, as a pulled plug does.
    fn unplug(&self, host: usize) {
        ip(&format!("-n {} link set eth0 down", self.names[host])).unwrap();
    }

    /// Lets everything pass again.
    fn mend(&self) {
        for name in &self.names[1..] {
            ip(&format!("-n {name} link set eth0 up")).unwrap();
        }
        for name in &self.names {
            for host in 0..3 {
                // Where nothing was cut there is no such route.
                let _ = ip(&format!("-n {name} route del blackhole {}", Self::address(host)));
            }
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// The three processes of a run, each on its host.
fn on_hosts(hosts: &Hosts, folder: &Path, file: &Path, of_third: &[&str]) -> Processes {
    let list = folder.join("hosts");
    let lines: String = (0..3).map(|host| format!("{}:2101\n", Hosts::address(host))).collect();
    std::fs::write(&list, lines).unwrap();
    let mut processes = Processes::new(3);
    for process in 0..3 {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &hosts.names[process]])
            .arg(fisherflow().get_program())
            .arg("run")
            .arg(file)
            .args(["-n", "3", "-p", &process.to_string()])
            .args(["--peer-timeout", &PEER_TIMEOUT.as_secs().to_string(), "--hostfile"])
            .arg(&list)
            .args(if process == 2 { of_third } else { &[] })
            .env("FISHERFLOW_CLUSTER_SECRET", "between hosts")
            .env("NO_COLOR", "1");
        processes.spawn_as(process, command);
    }
    processes
}

#[test]
fn hosts_that_are_cut_off_are_given_up_in_time() {
    let Some(hosts) = Hosts::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("network.safetensors"), &[48, 16, 8, 3]);
    write_objects(&folder.join("catalogue"), &simulated(48, 0, 480), 40);
    write_objects(&folder.join("stars"), &simulated(48, 10_000, 240), 40);
    let run_file = |output: &str| {
        let mut run_file = RunFile::new(folder, output).predicting(folder, "stars");
        run_file.compute = "batch = 16\ngroup = 40".to_owned();
        run_file.write(folder, output)
    };
    run(fisherflow().arg("run").arg(run_file("undisturbed"))).expect_done();
    let expected = digests(&folder.join("undisturbed"));
    type Cut = fn(&Hosts);
    let cuts: [(&str, Cut); 4] = [
        ("unplugged", |hosts| hosts.unplug(2)),
        ("unplugged-other", |hosts| hosts.unplug(1)),
        ("cut-off", |hosts| {
            hosts.cut(2, 0);
            hosts.cut(2, 1);
        }),
        ("cut-apart", |hosts| hosts.cut(1, 2)),
    ];
    for (name, cut) in cuts {
        let (output, file) = (folder.join(name), run_file(name));
        // The third holds still in the middle of the first pass that sums, until the network is cut.
        let mut processes = on_hosts(&hosts, folder, &file, &["--fail-at", "group-summed:2:stop"]);
        let started = Instant::now();
        while !processes.is_stopped(2) {
            assert!(!processes.has_ended(2), "{}", processes.wait(2));
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{name}: the third sums nothing"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        cut(&hosts);
        processes.signal(2, "CONT");
        let acted = Instant::now();
        for ended in processes.wait_all() {
            ended.expect(75, &["a process of the cluster was lost", "run again"]);
        }
        assert!(
            acted.elapsed() < 2 * PEER_TIMEOUT + SLACK,
            "{name}: {:?}",
            acted.elapsed()
        );
        println!("{name}: all ended within {:?}", acted.elapsed());
        assert!(!has_manifest(&output));
        hosts.mend();
        for ended in on_hosts(&hosts, folder, &file, &[]).wait_all() {
            ended.expect_done();
        }
        assert_eq!(digests(&output), expected, "{name}");
        assert_eq!(stages_left(&output), 0, "{name}");
    }
}
