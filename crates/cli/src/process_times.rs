//! When this process began and how much time it has had on the processors, as `/proc` says it.

use std::mem::size_of;

/// `AT_CLKTCK` of `getauxval(3)`: ticks a second of the times in `/proc`.
const TICKS: usize = 17;

/// Of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessTimes {
    /// Seconds since 1970.
    pub started: f64,
    /// Seconds of all its threads, in user and in system mode.
    pub processor: f64,
}

/// Those of this process; `None` where the system does not say.
pub fn process_times() -> Option<ProcessTimes> {
    let ticks = ticks_a_second(&std::fs::read("/proc/self/auxv").ok()?)?;
    let read = |file: &str| std::fs::read_to_string(file).ok();
    times(&read("/proc/self/stat")?, &read("/proc/stat")?, ticks as f64)
}

fn ticks_a_second(auxiliary: &[u8]) -> Option<usize> {
    let (words, _) = auxiliary.as_chunks::<{ size_of::<usize>() }>();
    let mut pairs = words.chunks_exact(2);
    let pair = pairs.find(|pair| usize::from_ne_bytes(pair[0]) == TICKS)?;
    Some(usize::from_ne_bytes(pair[1])).filter(|&ticks| ticks > 0)
}

/// From a process's `stat` and the machine's, as proc(5) describes them.
fn times(process: &str, machine: &str, ticks: f64) -> Option<ProcessTimes> {
    // The program's name stands in brackets and may hold anything; behind it the third field is the first.
    let fields: Vec<&str> = process.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let booted = machine.lines().find_map(|line| line.strip_prefix("btime "))?;
    let booted: f64 = booted.trim().parse().ok()?;
    Some(ProcessTimes {
        started: booted + field(22)? / ticks,
        processor: (field(14)? + field(15)?) / ticks,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_are_those_of_proc() {
        let process = "7 (a) b (c)) S 1 7 7 0 -1 4194304 10 0 0 0 250 150 9 9 20 0 3 0 4200 1 2 3\n";
        let machine = "cpu  1 2 3\nbtime 1764000000\nprocesses 5\n";
        assert_eq!(
            times(process, machine, 100.0),
            Some(ProcessTimes {
                started: 1_764_000_042.0,
                processor: 4.0
            })
        );
        assert_eq!(times("7 (a) S 1", machine, 100.0), None);
        assert_eq!(times(process, "cpu  1 2 3\n", 100.0), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_began_before_now_and_spends_time() {
        let first = process_times().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(
            first.started > now - 86_400.0 && first.started < now + 2.0,
            "{first:?} {now}"
        );
        let mut sum = 0.0f64;
        while process_times().unwrap().processor < first.processor + 0.05 {
            sum = (0..100_000).fold(sum, |sum, i| sum + f64::from(i).sqrt());
        }
        assert!(sum > 0.0);
        assert!((process_times().unwrap().started - first.started).abs() < 1.5);
    }
}
