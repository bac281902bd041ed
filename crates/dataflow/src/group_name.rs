//! The name of a reduction group in the store: the hash of everything that decides what it contributes.
//!
//! In it: the build's version, the pass and what it works with ([`PassInputs`]), and the group's shards with their versions. Not in it:
//! workers and processes, the prior, the output, the group's index, and whatever else the catalogue holds. Two runs that agree on a name
//! may take each other's sums.

use fisherflow_curvature::{CurvatureKind, References};
use fisherflow_spectra::{Group, PixelPopulation};
use sha2::{Digest, Sha256};

use crate::context::Context;

/// What decides the contributions of all groups of a pass, hashed.
#[derive(Clone, Debug)]
pub(crate) struct PassInputs(Sha256);

impl PassInputs {
    /// Of a pass over the fit's catalogue that sums something of its spectra: build, network, arithmetic, columns, which rows are counted,
    /// and how each is weighed. `noise`: R, `[K, K]`, normalised label units.
    pub(crate) fn of_sums(
        context: &Context,
        pass: &str,
        population: Option<&PixelPopulation>,
        references: &References,
        noise: &[f64],
    ) -> Self {
        let job = &context.job;
        let mut inputs = Self(Sha256::new());
        inputs.add("version", env!("CARGO_PKG_VERSION"));
        inputs.add("pass", pass);
        inputs.add("network", &context.network_sha256);
        inputs.add("said", &format!("{:?}", job.network.said));
        inputs.add("precision", &format!("{:?}", job.compute.arithmetic.precision));
        inputs.add("batch", &job.compute.batch.to_string());
        inputs.add("columns", &format!("{:?}", job.catalogue.columns));
        let share = if job.keeps_out() {
            job.compute.holdout_fraction
        } else {
            0.0
        };
        inputs.add("kept out", &format!("{share:?}"));
        inputs.add("kind", &format!("{:?}", job.curvature.kind));
        inputs.add("options", &format!("{:?}", job.curvature.options));
        for block in &context.blocks {
            inputs.add("block", &format!("{} {:?}", block.structure, block.layers));
        }
        inputs.add("in variables", &job.calibration.errors_in_variables.to_string());
        inputs.numbers("noise", noise);
        inputs.references(job.curvature.kind, references);
        inputs.population(population);
        inputs
    }

    /// Of a pass whose groups serve this run alone, or leave files in its output.
    pub(crate) fn of_run(context: &Context, pass: &str) -> Self {
        let mut inputs = Self(Sha256::new());
        inputs.add("pass", pass);
        inputs.add("run", &context.run_id);
        inputs
    }

    /// With one more input.
    pub(crate) fn add(&mut self, what: &str, value: &str) {
        for text in [what, value] {
            self.0.update((text.len() as u64).to_le_bytes());
            self.0.update(text);
        }
    }

    /// With what a pass before found over all `groups`; `before`: digest of its own inputs.
    pub(crate) fn found_over(&mut self, what: &str, before: &str, groups: &[Group]) {
        self.add("found", what);
        for group in groups {
            self.add("over", &name_of(before, group));
        }
    }

    fn numbers(&mut self, what: &str, values: &[f64]) {
        self.add(what, &values.len().to_string());
        for value in values {
            self.0.update(value.to_le_bytes());
        }
    }

    fn references(&mut self, kind: CurvatureKind, references: &References) {
        self.add("references", &format!("{kind:?}"));
        for layer in references.input_mean.iter().chain(&references.gradient_mean) {
            self.numbers("reference", layer);
        }
    }

    fn population(&mut self, population: Option<&PixelPopulation>) {
        match population {
            None => self.add("population", "none"),
            Some(population) => {
                self.numbers("population mean", &population.mean);
                self.numbers("population variance", &population.variance);
            }
        }
    }

    /// Of all of them, hexadecimal.
    pub(crate) fn digest(&self) -> String {
        hex(&self.0.clone().finalize())
    }
}

/// The name of a group of a pass with such a digest of its inputs.
pub(crate) fn name_of(digest: &str, group: &Group) -> String {
    let mut name = PassInputs(Sha256::new());
    name.add("pass", digest);
    for shard in &group.shards {
        let object = &shard.object;
        name.add("object", &object.path);
        match &object.etag {
            Some(etag) => name.add("etag", etag),
            None => name.add("size", &object.size.to_string()),
        }
        name.add("row group", &shard.row_group.to_string());
    }
    name.digest()[..32].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
