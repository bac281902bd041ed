//! Every run file of `pipelines/`, as it is shipped.

use std::fs;
use std::path::PathBuf;

use fisherflow_tests::{consumer, counts, digests, fisherflow, pipeline, repository, run};

#[test]
fn every_run_file_is_one() {
    let mut names: Vec<PathBuf> = fs::read_dir(repository().join("pipelines"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        let planned = run(fisherflow().arg("plan").arg(&name));
        match name.file_stem().unwrap().to_str().unwrap() {
            // Its catalogue is made, and its network trained, by the commands in its head.
            "large-network" if planned.code != Some(0) => {
                assert_eq!(planned.code, Some(3), "{planned}");
                let missing = ["does not exist", "no object matches"];
                assert!(missing.iter().any(|said| planned.stderr.contains(said)), "{planned}");
            }
            _ => {
                planned.expect_done();
                for said in ["memory", "FLOP", "weights"] {
                    assert!(planned.stdout.contains(said), "{said}\n{planned}");
                }
            }
        }
    }
    assert!(!repository().join("out/nothing").exists());
}

/// H times the written inverse is the identity, read back with pandas; and the numbers are those of a computation in numpy.
#[test]
fn the_exact_inverse_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let file = pipeline("exact-inverse.toml", folder.path(), &output);
    run(fisherflow().arg("run").arg(&file).args(["-w", "2"])).expect_done();
    assert!(!digests(&output).is_empty());
    assert_eq!(
        counts(&output)["fit_in_sums"],
        4096,
        "nothing is held out from the sums where the noise is given"
    );
    run(fisherflow().arg("verify").arg(&output)).expect_done();
    let expected = repository().join("data-samples/apogee-labels/expected.json");
    let Some(found) = consumer("exact_inverse.py", [output, expected]) else {
        return;
    };
    println!("{found:#}");
    for (what, limit) in [
        ("identity", 1e-8),
        ("labels", 1e-9),
        ("jacobian", 1e-9),
        ("hessian_trace", 1e-9),
        ("hessian_diagonal", 1e-9),
        ("hessian_row", 1e-9),
        ("inverse_diagonal", 1e-8),
        ("inverse_trace", 1e-8),
        ("marginal_variance", 1e-8),
        ("predictive_sigma", 1e-8),
        ("log_det", 1e-9),
        ("effective_parameters", 1e-6),
    ] {
        let apart = found[what].as_f64().unwrap_or(f64::NAN);
        assert!(apart < limit, "{what}: {apart:e} apart, {limit:e} allowed");
    }
}

/// Real spectra that the network has not seen: the error bars are as large as the errors.
#[test]
fn quickstart_gives_error_bars_as_large_as_the_errors() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let file = pipeline("quickstart.toml", folder.path(), &output);
    let ended = run(fisherflow().arg("run").arg(&file).args(["-w", "2"]));
    ended.expect_done();
    for said in [
        "complete",
        "predictions/",
        "jacobians/",
        "posterior/hessian/",
        "341 spectra",
    ] {
        assert!(ended.stdout.contains(said), "{said}\n{ended}");
    }
    assert!(
        !ended.stdout.contains("note: label "),
        "good labels are doubted\n{ended}"
    );
    let lines = ended.stdout.lines().count();
    assert!(lines <= 50, "{lines} lines are more than a screen\n{ended}");
    assert!(!digests(&output).is_empty());
    for said in [
        "certificate: errors of the weights' part agree with exact within 5 % in the median, but not star by star",
        "certificate: theta is no minimum",
        "of exact",
        "decrement",
    ] {
        assert!(ended.stdout.contains(said), "{said}\n{ended}");
    }
    let report = fs::read_to_string(output.join("report.html")).unwrap();
    assert!(
        report.contains("Certificate: errors of the weights"),
        "no certificate in the report"
    );
    assert!(
        report.contains("<svg") && report.contains("h_ks"),
        "{} bytes of report",
        report.len()
    );
    run(fisherflow().arg("verify").arg(&output)).expect_done();
    let counted = counts(&output);
    assert_eq!(
        (
            counted["fit_spectra"],
            counted["predict_spectra"],
            counted["predict_bad"]
        ),
        (1309, 341, 0)
    );

    let expected = repository().join("data-samples/spex/expected.json");
    if let Some(found) = consumer("quickstart.py", [output.clone(), expected]) {
        println!("{found:#}");
        for (what, apart) in found.as_object().unwrap() {
            assert!(
                apart.as_f64().unwrap() < 1e-5,
                "{what}: {apart} from what numpy computes"
            );
        }
    }

    let Some(pulls) = consumer(
        "pulls.py",
        [output, repository().join("data-samples/spex/test.parquet")],
    ) else {
        return;
    };
    println!("{pulls:#}");
    assert_eq!(pulls["spectra"], 341);
    for label in ["spt", "j_h", "h_ks"] {
        let deviation = pulls["standard_deviation"][label].as_f64().unwrap();
        assert!(
            (0.8..=1.2).contains(&deviation),
            "{label}: pulls have a standard deviation of {deviation:.3}"
        );
        let mean = pulls["mean"][label].as_f64().unwrap();
        assert!(mean.abs() < 0.3, "{label}: pulls have a mean of {mean:.3}");
    }
}
