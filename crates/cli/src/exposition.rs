//! What a process counts, as Prometheus' text exposition format 0.0.4:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

use fisherflow_dataflow::{Activity, Meter, PassCount, Unit};

use crate::process_times::process_times;

/// The `Content-Type` of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Names and values of a sample's labels.
type Labels<'l> = &'l [(&'l str, &'l str)];

/// One family of samples after another.
#[derive(Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family. A counter's name ends in `_total`.
    fn family(&mut self, name: &str, kind: &str, help: &str) -> Family<'_> {
        // A String takes everything.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family {
            name: name.to_owned(),
            text: &mut self.text,
        }
    }

    fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }
}

/// A family under way.
struct Family<'t> {
    name: String,
    text: &'t mut String,
}

impl Family<'_> {
    /// One sample.
    fn sample(&mut self, labels: Labels<'_>, value: f64) -> &mut Self {
        self.text.push_str(&self.name);
        for (i, (label, of)) in labels.iter().enumerate() {
            let _ = write!(
                self.text,
                "{}{label}=\"{}\"",
                if i == 0 { '{' } else { ',' },
                escaped(of)
            );
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
        self
    }
}

/// A label's value: backslash, quote and line feed are written with a backslash.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Everything that a meter counts; counters are of this process alone, to be summed over processes.
pub fn exposition(meter: &Meter) -> String {
    let mut out = Exposition::default();
    let (report, traffic, wire) = (meter.report(), meter.traffic(), meter.wire());
    let process = report.process.to_string();
    out.gauge("fisherflow_run_info", "The run, and which of its processes this is.")
        .sample(
            &[
                ("run_id", meter.run_id().unwrap_or_default()),
                ("process", &process),
                ("version", env!("CARGO_PKG_VERSION")),
            ],
            1.0,
        );
    let mut current = out.gauge("fisherflow_pass_info", "The pass that is under way.");
    if let Some(pass) = report.pass() {
        current.sample(&[("pass", &pass.pass)], 1.0);
    }
    passes(&mut out, &report.passes);
    let mut workers = out.gauge(
        "fisherflow_worker_pass_spectra",
        "Spectra (or blocks) of the current pass done, by worker over all processes.",
    );
    for worker in &report.workers {
        workers.sample(&[("worker", &worker.worker.to_string())], worker.done as f64);
    }
    let counts: [(&str, &str, u64); 6] = [
        (
            "fisherflow_bytes_read_total",
            "Bytes read from disks and object stores.",
            traffic.bytes_read,
        ),
        (
            "fisherflow_bytes_written_total",
            "Bytes written to disks and object stores.",
            traffic.bytes_written,
        ),
        (
            "fisherflow_store_requests_total",
            "Requests to disks and object stores, without the client's repetitions.",
            traffic.requests,
        ),
        (
            "fisherflow_store_retries_total",
            "Requests to object stores that failed and were made again.",
            traffic.retries,
        ),
        (
            "fisherflow_network_sent_bytes_total",
            "Bytes sent to other processes of the run.",
            wire.sent,
        ),
        (
            "fisherflow_network_received_bytes_total",
            "Bytes received from other processes of the run.",
            wire.received,
        ),
    ];
    for (name, help, value) in counts {
        out.counter(name, help).sample(&[], value as f64);
    }
    times(&mut out, meter);
    let standing = meter.standing();
    let mut heard = out.gauge(
        "fisherflow_process_report_age_seconds",
        "Seconds since a process last told the first one what it has done; the first process alone has it.",
    );
    for told in standing
        .processes
        .iter()
        .filter(|told| told.report.process != report.process)
    {
        heard.sample(&[("process", &told.report.process.to_string())], told.heard_s);
    }
    out.gauge("fisherflow_uptime_seconds", "Seconds since the process began.")
        .sample(&[], meter.elapsed().as_secs_f64());
    if let Some(times) = process_times() {
        out.gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
        )
        .sample(&[], times.started);
        out.counter(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
        )
        .sample(&[], times.processor);
    }
    if let Some(resident) = report.resident {
        out.gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
            .sample(&[], resident as f64);
    }
    out.text
}

/// What was done of each pass.
fn passes(out: &mut Exposition, passes: &[PassCount]) {
    type Value = fn(&PassCount) -> f64;
    const SPECTRA: &[Unit] = &[Unit::Spectra];
    const BLOCKS: &[Unit] = &[Unit::Blocks, Unit::Tiles];
    const ANY: &[Unit] = &[Unit::Spectra, Unit::Blocks, Unit::Tiles];
    let families: [(&str, &str, &str, &[Unit], Value); 8] = [
        (
            "fisherflow_spectra_total",
            "counter",
            "Spectra done or found done by an earlier try, by pass.",
            SPECTRA,
            |pass| pass.done as f64,
        ),
        (
            "fisherflow_spectra_resumed_total",
            "counter",
            "Of those, spectra found done by an earlier try, by pass.",
            SPECTRA,
            |pass| pass.resumed as f64,
        ),
        (
            "fisherflow_groups_total",
            "counter",
            "Reduction groups read to their end, by pass.",
            SPECTRA,
            |pass| pass.groups as f64,
        ),
        (
            "fisherflow_blocks_total",
            "counter",
            "Blocks of the Hessian (or tiles of one) done, by pass.",
            BLOCKS,
            |pass| pass.done as f64,
        ),
        (
            "fisherflow_pass_seconds_total",
            "counter",
            "Wall time, by pass.",
            ANY,
            |pass| pass.seconds,
        ),
        (
            "fisherflow_pass_spectra",
            "gauge",
            "Spectra of a pass in all processes together.",
            SPECTRA,
            |pass| pass.of as f64,
        ),
        (
            "fisherflow_pass_groups",
            "gauge",
            "Reduction groups of a pass in all processes together.",
            SPECTRA,
            |pass| pass.of_groups as f64,
        ),
        (
            "fisherflow_pass_blocks",
            "gauge",
            "Blocks (or tiles) of a pass in all processes together.",
            BLOCKS,
            |pass| pass.of as f64,
        ),
    ];
    for (name, kind, help, units, value) in families {
        let mut family = out.family(name, kind, help);
        for pass in passes.iter().filter(|pass| units.contains(&pass.unit)) {
            family.sample(&[("pass", &pass.pass)], value(pass));
        }
    }
}

/// Where the workers of this process spent their time.
fn times(out: &mut Exposition, meter: &Meter) {
    let mut by_operator = std::collections::BTreeMap::<String, f64>::new();
    for times in meter.times().values() {
        for (operator, seconds) in times.by_operator() {
            *by_operator.entry(operator.clone()).or_default() += seconds;
        }
    }
    let mut family = out.counter(
        "fisherflow_seconds_total",
        "Seconds of all workers of this process, by timely operator and what it does.",
    );
    for (operator, seconds) in &by_operator {
        let activity = Activity::of(operator).name();
        family.sample(&[("operator", operator), ("activity", activity)], *seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_the_format_says() {
        let mut out = Exposition::default();
        out.counter("a_total", "What a is.")
            .sample(&[], 3.0)
            .sample(&[("of", "x\"\\\ny"), ("by", "z")], 0.5);
        assert_eq!(
            out.text,
            "# HELP a_total What a is.\n# TYPE a_total counter\na_total 3\na_total{of=\"x\\\"\\\\\\ny\",by=\"z\"} 0.5\n"
        );
    }
}
