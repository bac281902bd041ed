//! What the manifest says of a run.

use std::collections::BTreeMap;

use fisherflow_store::{Manifest, now_utc};
use serde_json::json;

use crate::context::Context;
use crate::error::RunError;
use crate::job::{Noise, StructureChoice};
use crate::run::RunSummary;
use crate::run::inputs;

/// The manifest of a complete run.
pub(crate) fn manifest(context: &Context, summary: &RunSummary) -> Result<Manifest, RunError> {
    let job = &context.job;
    let mut counts = BTreeMap::from([
        ("fit_spectra".to_string(), summary.fit.spectra),
        ("fit_in_sums".to_string(), summary.fit.in_sums),
        ("fit_held_out".to_string(), summary.fit.held_out),
        ("fit_bad".to_string(), summary.fit.bad),
        ("fit_unlabelled".to_string(), summary.fit.unlabelled),
    ]);
    if job.calibration.errors_in_variables {
        counts.insert("fit_overwhelmed".into(), summary.fit.overwhelmed);
    }
    if context.fit.catalogue.excluded().is_some() {
        counts.insert("fit_excluded".into(), summary.fit.excluded);
    }
    if let Some(predict) = summary.predict {
        counts.insert("predict_spectra".into(), predict.spectra);
        counts.insert("predict_bad".into(), predict.bad);
        counts.insert("predict_pixels_masked".into(), predict.pixels_masked);
        counts.insert("predict_unlike_fit".into(), predict.unlike_fit);
        counts.insert("predict_weights_in_f32".into(), predict.weights_in_f32);
        counts.insert("predict_overwhelmed".into(), predict.overwhelmed);
        if context.predicted().catalogue.excluded().is_some() {
            counts.insert("predict_excluded".into(), predict.excluded);
        }
    }
    let by_layer: BTreeMap<&str, &str> = job
        .curvature
        .by_layer
        .iter()
        .map(|(layer, &kind)| (layer.as_str(), kind.name()))
        .collect();
    let mut settings = json!({
        "catalogue_columns": job.catalogue.columns,
        "exclude": job.catalogue.exclude,
        "predict_exclude": job.predict.catalogue.as_ref().map(|source| &source.exclude),
        "predict_columns": job.predict.catalogue.as_ref().map(|source| &source.columns),
        "jacobians": job.predict.jacobians,
        "curvature": {
            "structure": match job.curvature.structure {
                StructureChoice::Given(kind) => kind.name(),
                StructureChoice::Auto { .. } => "auto",
            },
            "memory": match job.curvature.structure {
                StructureChoice::Given(_) => job.compute.memory,
                StructureChoice::Auto { memory } => Some(memory),
            },
            "chosen": context.chosen,
            "layers": by_layer,
            "kind": job.curvature.kind.name(),
            "weight_sharing": job.curvature.options.weight_sharing,
            "split_bias": job.curvature.options.split_bias,
        },
        "noise": match &job.noise {
            Noise::Holdout => json!({ "from": "holdout" }),
            Noise::Covariance(covariance) => json!({ "covariance": covariance }),
        },
        "holdout_fraction": job.compute.holdout_fraction,
        "farthest_input": job.compute.farthest_input.is_finite().then_some(job.compute.farthest_input),
        "basis_sha256": context.basis.as_ref().filter(|basis| !basis.is_of(&context.run_id)).map(|basis| &basis.sha256),
        "errors_in_variables": job.calibration.errors_in_variables,
        "intrinsic_bins": job.calibration.intrinsic_bins.iter().cloned().collect::<BTreeMap<_, _>>(),
        "compute": {
            "precision": job.compute.arithmetic.precision.to_string(),
            "precision_asked": context.asked.to_string(),
            "kernel": context.kernel,
            "batch": job.compute.batch,
            "group": context.group,
        },
        "certification": {
            "spectra": job.certificate.n_spectra(context.network.n_labels()),
            "stars": job.certificate.stars,
            "compare": job.certificate.compare,
            "full_pass": job.certificate.full_pass,
            "hessian_steps": job.certificate.hessian_steps,
        },
        "resources": summary.resources,
    });
    for (name, found) in summary.findings() {
        settings[name] = found;
    }
    settings["network"]["layers"] = json!(context.network.dense_layers());
    Ok(Manifest {
        version: Manifest::VERSION,
        fisherflow: env!("CARGO_PKG_VERSION").into(),
        run_id: context.run_id.clone(),
        created: now_utc(),
        inputs: inputs::inputs(context),
        counts,
        files: summary.files.clone(),
        settings,
        notes: summary.notes.clone(),
    })
}
