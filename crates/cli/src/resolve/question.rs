//! The arguments of `plan` into the question that it answers.

use std::path::Path;

use fisherflow_dataflow::{ClusterQuestion, ClusterRates};

use super::cluster::{processes, workers};
use crate::args::PlanArgs;
use crate::exit_code::CliError;

/// Spectra that a plan is for, at most.
const MOST_SPECTRA: f64 = 1e12;

/// The cluster that a plan is asked about.
///
/// # Errors
/// No process or worker at all, or too many, a number that is none of what it counts, or a file of rates that cannot be read.
pub fn question(args: &PlanArgs) -> Result<ClusterQuestion, CliError> {
    let rates = match &args.rates {
        Some(path) => read(path)?,
        None => ClusterRates::MEASURED,
    };
    let bytes = |name: &str, given: Option<f64>, measured: f64| -> Result<f64, CliError> {
        Ok(positive(name, given)?.map_or(measured, |megabytes| 1e6 * megabytes))
    };
    Ok(ClusterQuestion {
        processes: processes(args.processes)?,
        workers: workers(args.workers)?,
        spectra: positive("--spectra", args.spectra)?.map(spectra).transpose()?,
        fit_rate: positive("--rate", args.rate)?,
        rates: ClusterRates {
            network_bytes: bytes("--network", args.network, rates.network_bytes)?,
            store_bytes: bytes("--store", args.store, rates.store_bytes)?,
            ..rates
        },
    })
}

/// Spectra to plan for. Beyond the limit bytes and operations of all of them are no numbers any more.
fn spectra(said: f64) -> Result<u64, CliError> {
    match said <= MOST_SPECTRA {
        true => Ok(said.ceil() as u64),
        false => Err(CliError::Arguments(format!(
            "--spectra {said:e} is too many: it takes at most {MOST_SPECTRA:e}"
        ))),
    }
}

/// Rates as `tests/cluster-model` writes them.
fn read(path: &Path) -> Result<ClusterRates, CliError> {
    let wrong = |problem: String| {
        CliError::Arguments(format!(
            "--rates {}: {problem}; tests/cluster-model writes such a file",
            path.display()
        ))
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let rates: ClusterRates = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    for (name, rate) in [
        ("worker_flops", rates.worker_flops),
        ("inverse_flops", rates.inverse_flops),
        ("decode_bytes", rates.decode_bytes),
        ("store_bytes", rates.store_bytes),
        ("network_bytes", rates.network_bytes),
    ] {
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(wrong(format!("{name} is {rate}, not a number above 0")));
        }
    }
    for (name, seconds) in [("group_s", rates.group_s), ("start_s", rates.start_s)] {
        if !(seconds >= 0.0 && seconds.is_finite()) {
            return Err(wrong(format!("{name} is {seconds}, not a number of seconds")));
        }
    }
    Ok(rates)
}

fn positive(name: &str, value: Option<f64>) -> Result<Option<f64>, CliError> {
    match value {
        Some(value) if !(value > 0.0 && value.is_finite()) => {
            Err(CliError::Arguments(format!("{name} takes a number above 0")))
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> PlanArgs {
        PlanArgs {
            file: "run.toml".into(),
            processes: 2,
            workers: 1,
            spectra: Some(1e6),
            rate: None,
            network: None,
            store: None,
            rates: None,
            json: false,
        }
    }

    fn asked(rates: &str, store: Option<f64>) -> Result<ClusterQuestion, CliError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rates.json");
        std::fs::write(&file, rates).unwrap();
        question(&PlanArgs {
            store,
            rates: Some(file),
            ..args()
        })
    }

    #[test]
    fn numbers_that_no_cluster_has_are_refused() {
        let of = |processes: usize, workers: usize, spectra: f64| {
            question(&PlanArgs {
                processes,
                workers,
                spectra: Some(spectra),
                ..args()
            })
        };
        assert_eq!(of(1, 1, 1e12).unwrap().spectra, Some(1_000_000_000_000));
        for (found, said) in [
            (of(0, 1, 1e6), "-n takes at least 1"),
            (of(1, 0, 1e6), "-w takes at least 1"),
            (of(1, 20_000, 1e6), "-w 20000 is too many"),
            (of(usize::MAX, 1, 1e6), "at most 60000"),
            (of(1, 1, 1e30), "--spectra 1e30 is too many: it takes at most 1e12"),
            (of(1, 1, f64::NAN), "--spectra takes a number above 0"),
        ] {
            let error = found.unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    const RATES: &str = r#"{"worker_flops": 1e11, "inverse_flops": 2e10, "decode_bytes": 1e8, "store_bytes": 3e8, "network_bytes": 4e8, "group_s": 0.0, "start_s": 1,
        "measured_on": "a laptop"}"#;

    #[test]
    fn rates_of_a_file_and_over_them_what_is_said() {
        let question = asked(RATES, Some(100.0)).unwrap();
        let rates = &question.rates;
        assert_eq!((rates.worker_flops, rates.store_bytes), (1e11, 1e8));
        assert_eq!((rates.network_bytes, rates.start_s), (4e8, 1.0));
        assert_eq!(rates.measured_on, "a laptop");
    }

    #[test]
    fn rates_that_are_none_are_named() {
        for (from, to, said) in [
            ("1e11", "0", "worker_flops is 0"),
            ("0.0", "-1", "group_s is -1"),
            ("inverse_flops", "inverse", "unknown field `inverse`"),
            ("{", "", "expected"),
        ] {
            let error = asked(&RATES.replacen(from, to, 1), None).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
