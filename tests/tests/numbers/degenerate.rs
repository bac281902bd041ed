//! Inputs at the edge of what determines a posterior: each has a stated result, or an error that names the block and the remedy.

use std::path::Path;

use fisherflow_spectra::{holdout_hash, is_held_out};
use fisherflow_tests::{
    Ended, PlainNetwork, RunFile, Spectrum, Table, counts, fisherflow, manifest, run, simulated, write_objects,
};

/// Every structure that a run may hold all layers in.
const STRUCTURES: [&str; 5] = ["full", "block", "kfac", "ekfac", "diagonal"];
const PIXELS: usize = 8;
const UNITS: usize = 5;
const K: usize = 3;
const GIVEN_NOISE: &str =
    "covariance = [[2500.0, 0.0, 0.0], [0.0, 0.04, 0.0], [0.0, 0.0, 0.01]]\nholdout_fraction = 0.0";

/// A run of a structure on these stars.
fn carry_out(
    folder: &Path,
    net: &PlainNetwork,
    spectra: &[Spectrum],
    structure: &str,
    noise: &str,
    prior: f64,
) -> Ended {
    net.write(&folder.join("network.safetensors"));
    write_objects(&folder.join("catalogue"), spectra, 40);
    let mut run_file = RunFile::new(folder, "out");
    run_file.curvature = format!("structure = \"{structure}\"");
    run_file.noise = noise.to_owned();
    run_file.compute = "precision = \"f64\"\nbatch = 16\ngroup = 50".to_owned();
    let toml = run_file
        .toml()
        .replace("[prior]\nprecision = 2.0", &format!("[prior]\nprecision = {prior:?}"));
    let file = folder.join("run.toml");
    std::fs::write(&file, toml).unwrap();
    run(fisherflow().arg("run").arg(&file))
}

/// Every star's weights part is a covariance.
fn weights_part(output: &Path) -> Vec<Vec<f64>> {
    let table = Table::read(&output.join("predictions"));
    let parts: Vec<Vec<f64>> = (0..table.len()).map(|row| table.list("cov_weights", row)).collect();
    for part in &parts {
        for i in 0..K {
            for j in 0..K {
                let bound = (part[i * (K + 1)] * part[j * (K + 1)]).sqrt();
                assert!(
                    part[i * (K + 1)] > 0.0 && part[i * K + j].abs() <= bound * (1.0 + 1e-9),
                    "{part:?}"
                );
            }
        }
    }
    parts
}

/// Over all blocks.
fn effective_parameters(output: &Path) -> f64 {
    let blocks = manifest(output)["settings"]["blocks"].as_array().unwrap().clone();
    blocks
        .iter()
        .map(|block| block["effective_parameters"].as_f64().unwrap())
        .sum()
}

/// The first layer's units are never active: its weights, and those that lead out of it, keep their prior; the last biases are all that
/// the data determine.
#[test]
fn dead_units_keep_their_prior() {
    const PRIOR: f64 = 4.0;
    for structure in STRUCTURES {
        let mut net = PlainNetwork::random(&[PIXELS, UNITS, K], "relu", 3);
        net.layers[0].bias.fill(-1e6);
        let spectra = simulated(PIXELS, 0, 80);
        let folder = tempfile::tempdir().unwrap();
        carry_out(folder.path(), &net, &spectra, structure, GIVEN_NOISE, PRIOR).expect_done();
        let out = folder.path().join("out");
        let weights = Table::read(&out.join("posterior/marginal_variance"));
        for row in 0..weights.len() {
            let variance = weights.number("std_error", row).powi(2);
            if weights.text("layer", row) == "layers.2" && weights.is_null("in_index", row) {
                // H there is N / R, the noise in normalised units.
                let output = weights.whole("out_index", row) as usize;
                let noise = [2500.0, 0.04, 0.01][output] / net.label_scale[output].powi(2);
                let expected = 1.0 / (80.0 / noise + PRIOR);
                assert!(
                    (variance / expected - 1.0).abs() < 1e-9,
                    "{structure} {output}: {variance:e}, {expected:e}"
                );
            } else {
                assert!((variance * PRIOR - 1.0).abs() < 1e-12, "{structure} {row}: {variance}");
            }
        }
        assert!(effective_parameters(&out) < K as f64);
        weights_part(&out);

        let folder = tempfile::tempdir().unwrap();
        let block = if structure == "full" {
            "layers.0+layers.2"
        } else {
            "layers.0"
        };
        carry_out(folder.path(), &net, &spectra, structure, GIVEN_NOISE, 0.0).expect(
            1,
            &[&format!("block {block} "), "is singular", "Raise the prior precision"],
        );
    }
}

/// A certificate over fewer spectra than a block has weights is exact through their Gram matrix, whose rows are gradients of the loss here.
#[test]
fn an_empirical_fisher_is_certified_over_fewer_spectra_than_weights() {
    let net = PlainNetwork::random(&[PIXELS, UNITS, K], "tanh", 3);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    net.write(&folder.join("network.safetensors"));
    write_objects(&folder.join("catalogue"), &simulated(PIXELS, 0, 120), 40);
    for structure in ["block", "full", "kfac"] {
        let mut run_file = RunFile::new(folder, &format!("out-{structure}"));
        run_file.curvature = format!("structure = \"{structure}\"\nkind = \"empirical_fisher\"");
        let certificate = "\n[certificate]\nspectra = 10\ncompare = [\"block\"]\n";
        let file = folder.join(format!("{structure}.toml"));
        std::fs::write(&file, run_file.toml() + certificate).unwrap();
        run(fisherflow().arg("run").arg(&file)).expect_done();
        let certified = Table::read(&folder.join(format!("out-{structure}/posterior/certificate.parquet")));
        assert!(certified.len() >= 2, "{structure}");
    }
}

/// Exactly one star for 63 weights. With V0 = J J^T / delta the posterior at that star is V = (V0^-1 + R^-1)^-1: below the noise, and the
/// effective parameters are tr(V R^-1), in `full`, which is exact.
#[test]
fn one_star_is_enough_with_a_prior() {
    let net = PlainNetwork::random(&[PIXELS, UNITS, K], "tanh", 3);
    for structure in STRUCTURES {
        let folder = tempfile::tempdir().unwrap();
        carry_out(
            folder.path(),
            &net,
            &simulated(PIXELS, 0, 1),
            structure,
            GIVEN_NOISE,
            2.0,
        )
        .expect_done();
        let out = folder.path().join("out");
        let part = weights_part(&out);
        assert_eq!(part.len(), 1);
        if structure == "full" {
            let noise = [2500.0, 0.04, 0.01];
            let gamma: f64 = (0..K).map(|k| part[0][k * (K + 1)] / noise[k]).sum();
            assert!((0..K).all(|k| part[0][k * (K + 1)] < noise[k]));
            let effective = effective_parameters(&out);
            assert!((gamma / effective - 1.0).abs() < 1e-9, "{gamma} {effective}");
            assert!(effective < K as f64);
        }
        let folder = tempfile::tempdir().unwrap();
        let without_prior = carry_out(
            folder.path(),
            &net,
            &simulated(PIXELS, 0, 1),
            structure,
            GIVEN_NOISE,
            0.0,
        );
        if structure == "diagonal" {
            // One star moves every weight alone; that it cannot tell all of them apart is not in a diagonal, and is noted.
            without_prior.expect_done();
            let notes = manifest(&folder.path().join("out"))["notes"].to_string();
            assert!(
                notes.contains("effective parameters 63 exceed labels x spectra = 3"),
                "{notes}"
            );
        } else {
            without_prior.expect(1, &["block layers.", "is singular", "Raise the prior precision"]);
        }
    }
    // It alone does not tell the noise.
    let folder = tempfile::tempdir().unwrap();
    let ended = carry_out(
        folder.path(),
        &net,
        &simulated(PIXELS, 0, 1),
        "kfac",
        "holdout_fraction = 0.25",
        2.0,
    );
    ended.expect(
        3,
        &[
            "1 held-out spectra with residuals do not tell the covariance of 3 labels",
            "raise noise.holdout_fraction",
        ],
    );
}

/// Fewer stars than weights: exact structures determine no more than one number a star and label.
#[test]
fn fewer_stars_than_weights_determine_no_more_than_they_say() {
    let net = PlainNetwork::random(&[PIXELS, UNITS, K], "tanh", 3);
    for structure in STRUCTURES {
        let folder = tempfile::tempdir().unwrap();
        let n = 7;
        carry_out(
            folder.path(),
            &net,
            &simulated(PIXELS, 0, n),
            structure,
            GIVEN_NOISE,
            1e-3,
        )
        .expect_done();
        let out = folder.path().join("out");
        weights_part(&out);
        let (effective, limit) = (effective_parameters(&out), (n as usize * K) as f64);
        let notes = manifest(&out)["notes"].to_string();
        if structure == "full" {
            assert!(effective < limit, "{effective}");
        }
        assert_eq!(
            effective > limit,
            notes.contains("information that is not there"),
            "{structure} {effective}: {notes}"
        );
    }
}

/// What is fitted to held-out stars says on how many it rests, where they are few; where no star is held out, nor in the tenth that takes their place,
/// there is no limit of range either.
#[test]
fn few_held_out_stars_are_said() {
    let net = PlainNetwork::random(&[PIXELS, UNITS, K], "tanh", 3);
    let spectra = simulated(PIXELS, 0, 90);
    let hardly_any = GIVEN_NOISE.replace("holdout_fraction = 0.0", "holdout_fraction = 1e-9");
    let in_the_tenth = |star: &Spectrum| is_held_out(holdout_hash(star.id.as_ref().unwrap()), 0.1);
    let others: Vec<Spectrum> = spectra.iter().filter(|star| !in_the_tenth(star)).cloned().collect();
    for (spectra, noise, fewest, most, few) in [
        (&spectra, "holdout_fraction = 0.25", 4, 49, true),
        (&spectra, "holdout_fraction = 0.8", 50, 90, false),
        (&spectra, GIVEN_NOISE, 0, 0, false),
        (&spectra, &hardly_any, 0, 0, false),
        (&others, GIVEN_NOISE, 0, 0, false),
        (&others, &hardly_any, 0, 0, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        carry_out(folder.path(), &net, spectra, "kfac", noise, 2.0).expect_done();
        let output = folder.path().join("out");
        let n = counts(&output)["fit_held_out"];
        assert!((fewest..=most).contains(&n), "{noise}: {n}");
        let notes = manifest(&output)["notes"].to_string();
        let said = format!("what is fitted to held-out spectra rests on {n} of them, fewer than 50");
        assert_eq!(
            notes.contains("what is fitted to held-out spectra rests on"),
            few,
            "{notes}"
        );
        assert_eq!(notes.contains(&said), few, "{notes}");
        let unlimited = "too few held-out spectra tell how far a flux may be (noise.farthest_input)";
        assert_eq!(
            notes.contains(unlimited),
            spectra.len() == others.len(),
            "{noise}: {notes}"
        );
        for (of, said) in [
            (
                GIVEN_NOISE,
                "C_intrinsic is 0: no spectrum is held out (noise.holdout_fraction = 0): raise it",
            ),
            (
                hardly_any.as_str(),
                "C_intrinsic is 0: none of the spectra held out (noise.holdout_fraction = 0.000000001) has labels",
            ),
        ] {
            assert_eq!(notes.contains(said), noise == of, "{noise}: {notes}");
        }
    }
}

/// A label that no star has: no residual is whole, and with the noise given no star can be summed over.
#[test]
fn a_label_that_no_star_has_is_said() {
    let net = PlainNetwork::random(&[PIXELS, UNITS, K], "tanh", 3);
    let mut spectra = simulated(PIXELS, 0, 80);
    for star in &mut spectra {
        star.labels[1] = None;
    }
    let folder = tempfile::tempdir().unwrap();
    let ended = carry_out(folder.path(), &net, &spectra, "kfac", "holdout_fraction = 0.25", 2.0);
    ended.expect(
        3,
        &[
            "no held-out spectrum with all its labels",
            "a label or a covariance is missing",
        ],
    );
    let folder = tempfile::tempdir().unwrap();
    let ended = carry_out(folder.path(), &net, &spectra, "kfac", GIVEN_NOISE, 2.0);
    ended.expect(3, &["can be counted in the Hessian", "80 lack labels or their errors"]);
}
