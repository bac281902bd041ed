//! What this process takes part in, by the keys of the run file: all that decides the run's name, for a process that has another.

use std::fmt::Display;

use super::{Context, GroupedCatalogue};
use crate::cluster::terms::Terms;
use crate::job::CatalogueSource;
use crate::run::inputs::{inputs, size};

/// Letters of a hash that are told.
const OF_HASH: usize = 12;

impl Context {
    /// The terms of a cluster that does `command`; `identity` names all that its processes must share.
    pub(crate) fn terms(&self, identity: String, command: &str) -> Terms {
        let mut terms = Terms::of(identity);
        self.add_settings(&mut terms, command);
        terms.found(
            "network",
            format!("a file of SHA-256 {}", &self.network_sha256[..OF_HASH]),
        );
        for input in inputs(self) {
            if let Some(etags) = &input.etags_sha256 {
                terms.found(&input.role, format!("{}, etags {}", size(&input), &etags[..OF_HASH]));
            }
        }
        let excluded = |of: &GroupedCatalogue| {
            let list = of.catalogue.excluded();
            list.map(|list| format!("SHA-256 {}", &list.sha256()[..OF_HASH]))
        };
        let of_predict = self.predict.as_ref().and_then(excluded);
        for (key, list) in [
            ("catalogue.exclude", excluded(&self.fit)),
            ("predict.exclude", of_predict),
        ] {
            if let Some(list) = list {
                terms.found(key, list);
            }
        }
        if let Some(release) = &self.release {
            terms.found("the next release", release.number.to_string());
        }
        if let Some(basis) = &self.basis {
            terms.found("noise.basis", format!("SHA-256 {}", &basis.sha256[..OF_HASH]));
        }
        let blocks = self
            .blocks
            .iter()
            .map(|block| format!("{} {:?}", block.structure, block.layers));
        terms.derived("structures", blocks.collect::<Vec<_>>().join(", "));
        terms.derived("spectra a group", self.group.to_string());
        terms.derived("arithmetic", self.kernel.clone());
        terms
    }

    fn add_settings(&self, terms: &mut Terms, command: &str) {
        let job = &self.job;
        add_catalogue(terms, "catalogue", &job.catalogue, &self.fit);
        if let (Some(source), Some(predict)) = (&job.predict.catalogue, &self.predict) {
            add_catalogue(terms, "predict", source, predict);
        }
        let (curvature, compute) = (&job.curvature, &job.compute);
        let (calibration, certificate) = (&job.calibration, &job.certificate);
        for (key, value) in [
            ("command", command.to_owned()),
            ("[network]", format!("{:?}", job.network.said)),
            ("predict.jacobians", job.predict.jacobians.to_string()),
            ("curvature.kind", curvature.kind.name().to_owned()),
            ("curvature.rank", curvature.low_rank.rank.to_string()),
            ("curvature.passes", curvature.low_rank.passes.to_string()),
            (
                "curvature.weight_sharing",
                format!("{:?}", curvature.options.weight_sharing),
            ),
            ("curvature.split_bias", curvature.options.split_bias.to_string()),
            ("noise", format!("{:?}", job.noise)),
            ("noise.holdout_fraction", compute.holdout_fraction.to_string()),
            ("noise.farthest_input", compute.farthest_input.to_string()),
            ("noise.errors_in_variables", calibration.errors_in_variables.to_string()),
            ("noise.intrinsic_bins", format!("{:?}", calibration.intrinsic_bins)),
            ("prior", format!("{:?}", job.prior)),
            ("prior.layers", format!("{:?}", job.prior_by_layer)),
            ("prior.label_scale", calibration.label_scale.to_string()),
            ("compute.device", compute.processor.to_string()),
            ("compute.batch", compute.batch.to_string()),
            ("certificate.spectra", given(certificate.spectra.as_ref())),
            ("certificate.stars", certificate.stars.to_string()),
            ("certificate.compare", format!("{:?}", certificate.compare)),
            ("certificate.full_pass", certificate.full_pass.to_string()),
            ("certificate.hessian_steps", certificate.hessian_steps.to_string()),
            ("output.releases", job.releases.to_string()),
        ] {
            terms.setting(key, value);
        }
        for (key, value) in [
            ("network.uri", job.network.uri.clone()),
            ("curvature.structure", format!("{:?}", curvature.structure)),
            ("curvature.layers", format!("{:?}", curvature.by_layer)),
            ("noise.basis", given(job.basis.as_ref())),
            ("compute.precision", format!("{:?}", self.asked)),
            ("compute.group", given(compute.group)),
        ] {
            terms.spelled(key, value);
        }
        // Of the folder it matters only that there is one; and whether a block is dual may follow from what was found.
        if self.dual_plan().is_some() {
            terms.spelled("curvature.memory", given(compute.memory));
            terms.spelled("compute.scratch", given(compute.scratch.as_ref().map(|_| "a folder")));
        }
    }
}

/// What may be left out.
fn given(value: Option<impl Display>) -> String {
    value.map_or_else(|| "not said".to_owned(), |value| value.to_string())
}

/// The keys of a catalogue's table.
fn add_catalogue(terms: &mut Terms, table: &str, source: &CatalogueSource, found: &GroupedCatalogue) {
    let columns = &source.columns;
    for (key, value) in [
        ("id", columns.id.clone()),
        ("flux", columns.flux.clone()),
        ("sigma, ivar or exact_inputs", format!("{:?}", columns.error)),
        ("mask", format!("{:?}", columns.mask)),
        ("labels", format!("{:?}", columns.labels)),
        ("label_errors", format!("{:?}", columns.label_errors)),
        ("holdout_group", given(columns.holdout_group.as_ref())),
        ("keep_columns", format!("{:?}", columns.keep)),
    ] {
        terms.setting(&format!("{table}.{key}"), value);
    }
    // Folders may be written in several ways.
    let pattern = source.uri.split('/').skip_while(|part| !part.contains('*'));
    let uri: Vec<&str> = std::iter::once(found.catalogue.folder()).chain(pattern).collect();
    for (key, value) in [
        ("uri", uri.join("/")),
        ("exclude", format!("{:?}", source.exclude)),
        ("on_bad_object", format!("{:?}", source.on_bad_object)),
    ] {
        terms.spelled(&format!("{table}.{key}"), value);
    }
}
