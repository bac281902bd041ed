//! The name of a reduction group in the store: the hash of everything that decides what it contributes.
//!
//! In it: fisherflow's version, the pass and what it works with ([`PassInputs`]), the group's shards with their versions, and which of its identifiers are
//! left out. Not in it:
//! workers and processes, the prior, the output, the group's index, and whatever else the catalogue holds. Two runs that agree on a name
//! may take each other's sums.
//!
//! Of the build there is nothing but that version and a number for each thing that a group leaves, raised where it means something else
//! ([`ROWS_VERSION`], [`REFERENCES_VERSION`]). So another build of one version computes no line anew: what it sums otherwise by rounding alone stands
//! beside what was summed before.

use fisherflow_curvature::{CurvatureKind, References};
use fisherflow_spectra::{Group, PixelPopulation};
use fisherflow_store::hex;
use sha2::{Digest, Sha256};

use crate::bad_rows::ROWS_VERSION;
use crate::context::Context;

/// How sums use their references: another number where they do otherwise. 2: sums over positions are taken about so many times the mean of one.
const REFERENCES_VERSION: &str = "2";

/// What decides the contributions of all groups of a pass, hashed.
#[derive(Clone, Debug)]
pub(crate) struct PassInputs(Sha256, Serves);

/// Whom what the groups give serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serves {
    /// Every run that agrees on their names.
    EveryRun,
    /// This run alone.
    ThisRun,
}

impl PassInputs {
    /// Of a pass over the fit's catalogue that sums something of its spectra: version, network, arithmetic, columns, which rows are counted,
    /// and how each is weighed. `noise`: R, `[K, K]`, normalised label units.
    pub(crate) fn of_sums(
        context: &Context,
        pass: &str,
        population: Option<&PixelPopulation>,
        references: &References,
        noise: &[f64],
    ) -> Self {
        let job = &context.job;
        let mut inputs = Self(Sha256::new(), Serves::EveryRun);
        inputs.add("version", env!("CARGO_PKG_VERSION"));
        inputs.add("rows", ROWS_VERSION);
        inputs.add("pass", pass);
        inputs.add("network", &context.network_sha256);
        inputs.add("said", &format!("{:?}", job.network.said));
        inputs.add("precision", &context.kernel);
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
        let mut inputs = Self(Sha256::new(), Serves::ThisRun);
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

    /// With what a pass before found over all groups of the fit; `before`: digest of its own inputs.
    pub(crate) fn found_over(&mut self, what: &str, before: &str, context: &Context) {
        self.add("found", what);
        for group in &context.fit.groups {
            self.add("over", &name_of(before, group, context.excluded_in(group)));
        }
    }

    /// Whom what the groups give serves.
    pub(crate) fn serves(&self) -> Serves {
        self.1
    }

    /// With some numbers more, bit by bit.
    pub(crate) fn numbers(&mut self, what: &str, values: &[f64]) {
        self.add(what, &values.len().to_string());
        for value in values {
            self.0.update(value.to_le_bytes());
        }
    }

    fn references(&mut self, kind: CurvatureKind, references: &References) {
        self.add("references", &format!("{REFERENCES_VERSION} {kind:?}"));
        for layer in references.input_mean.iter().chain(&references.gradient_mean) {
            self.numbers("reference", layer);
        }
    }

    /// With what masked pixels are replaced with, and how far inputs may be from 0.
    pub(crate) fn population(&mut self, population: Option<&PixelPopulation>) {
        match population {
            None => self.add("population", "none"),
            Some(population) => {
                self.numbers("population mean", &population.mean);
                self.numbers("population variance", &population.variance);
                self.add("input limit", &format!("{:?}", population.input_limit));
            }
        }
    }

    /// Of all of them, hexadecimal.
    pub(crate) fn digest(&self) -> String {
        hex(&self.0.clone().finalize())
    }
}

/// The name of a group of a pass with such a digest of its inputs; `excluded`: the identifiers in it that are left out, in order.
pub(crate) fn name_of(digest: &str, group: &Group, excluded: &[String]) -> String {
    let mut name = PassInputs(Sha256::new(), Serves::EveryRun);
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
    for id in excluded {
        name.add("excluded", id);
    }
    name.digest()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::Arc;

    use fisherflow_curvature::StructureKind;
    use fisherflow_network::{Activation, Arithmetic, Labels, Network, Precision};
    use fisherflow_posterior::Probe;
    use fisherflow_spectra::{ObjectVersion, Shard, Simulation};
    use fisherflow_store::{StoreOptions, Stores, simulated_columns, write_simulated};

    use crate::job::{CatalogueSource, ExistingOutput, Job, Noise, Prior};
    use crate::passes::certify;
    use crate::progress::meter::Meter;

    fn prepare(folder: &Path) {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let catalogue = folder.join("catalogue");
        write_simulated(&stores, catalogue.to_str().unwrap(), &Simulation::new(20, 7), 30, 30).unwrap();
        for (name, seed) in [("network", 1), ("another", 2)] {
            let labels = Labels {
                names: ["label_0", "label_1", "label_2"].map(str::to_owned).to_vec(),
                units: vec![String::new(); 3],
                mean: vec![4700.0, 2.3, -0.2],
                scale: vec![500.0, 0.8, 0.3],
            };
            let arithmetic = Arithmetic {
                precision: Precision::F32,
                threads: 1,
            };
            let sizes = [20, 4, 3];
            let network =
                Network::he_normal(&sizes, Activation::Tanh, labels, &[1.0], &[0.1], seed, arithmetic).unwrap();
            let file = folder.join(format!("{name}.safetensors"));
            std::fs::write(file, network.to_safetensors().unwrap()).unwrap();
        }
    }

    fn job(folder: &Path) -> Job {
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let catalogue = CatalogueSource::new(path("catalogue"), simulated_columns());
        let mut job = Job::new(path("network.safetensors"), catalogue, Prior::Fixed(1.0), path("out"));
        job.curvature.structure = StructureKind::Kfac.into();
        job.compute.arithmetic.precision = Precision::F32;
        job.compute.batch = 16;
        job.compute.group = Some(50);
        job.compute.holdout_fraction = 0.2;
        job
    }

    /// What is found before the pass, as the test sets it.
    struct Before {
        noise: Vec<f64>,
        reference: f64,
        population: Option<PixelPopulation>,
    }

    impl Default for Before {
        fn default() -> Self {
            Self {
                noise: vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                reference: 0.5,
                population: None,
            }
        }
    }

    fn digest(job: Job, workers: usize, pass: &str, before: &Before) -> String {
        let context = Context::open(Arc::new(job), (1, workers), Meter::silent()).unwrap();
        let mut references = References::zero(context.network.dense_layers(), 3);
        references.gradient_mean[0][1] = before.reference;
        PassInputs::of_sums(&context, pass, before.population.as_ref(), &references, &before.noise).digest()
    }

    fn with(folder: &Path, change: impl FnOnce(&mut Job)) -> String {
        let mut job = job(folder);
        change(&mut job);
        digest(job, 1, "curvature", &Before::default())
    }

    #[test]
    fn every_input_of_a_groups_sums_changes_its_name_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        prepare(folder);
        let same = with(folder, |_| ());
        let of = |before: Before| digest(job(folder), 1, "curvature", &before);
        let variance = |x: f64| {
            Some(PixelPopulation {
                n_spectra: 9,
                mean: vec![1.0; 20],
                variance: vec![x; 20],
                borrowed: 0,
                input_limit: None,
            })
        };
        let mut digests = vec![
            same.clone(),
            digest(job(folder), 1, "correction", &Before::default()),
            with(folder, |job| {
                job.network.uri = job.network.uri.replace("network.s", "another.s")
            }),
            with(folder, |job| job.network.said.input_scale = Some(vec![0.1])),
            with(folder, |job| job.compute.arithmetic.precision = Precision::F64),
            with(folder, |job| job.compute.batch = 8),
            with(folder, |job| job.catalogue.columns.labels.swap(0, 1)),
            with(folder, |job| job.compute.holdout_fraction = 0.3),
            with(folder, |job| job.noise = Noise::Covariance(vec![vec![1.0; 3]; 3])),
            with(folder, |job| job.curvature.kind = CurvatureKind::EmpiricalFisher),
            with(folder, |job| job.curvature.options.split_bias = true),
            with(folder, |job| job.curvature.structure = StructureKind::Diagonal.into()),
            with(folder, |job| job.calibration.errors_in_variables = true),
        ];
        digests.push(of(Before {
            noise: vec![2.0; 9],
            ..Before::default()
        }));
        digests.push(of(Before {
            reference: 0.25,
            ..Before::default()
        }));
        digests.extend([0.1, 0.2].map(|x| {
            of(Before {
                population: variance(x),
                ..Before::default()
            })
        }));
        assert_eq!(
            digests.iter().collect::<BTreeSet<_>>().len(),
            digests.len(),
            "{digests:#?}"
        );

        assert_eq!(digest(job(folder), 3, "curvature", &Before::default()), same);
        for unchanged in [
            with(folder, |job| job.prior = Prior::Evidence),
            with(folder, |job| job.output += "-elsewhere"),
            with(folder, |job| job.compute.arithmetic.threads = 2),
            with(folder, |job| job.compute.group = Some(7)),
            with(folder, |job| job.certificate.spectra = Some(3)),
            with(folder, |job| job.existing_output = ExistingOutput::Overwrite),
        ] {
            assert_eq!(unchanged, same);
        }
    }

    #[test]
    fn what_is_certified_is_named_by_the_answers_that_are_probed() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let context = Context::open(Arc::new(job(folder.path())), (1, 1), Meter::silent()).unwrap();
        let digest = |answer: f64, noise: f64, n_blocks: usize| {
            let probe = Probe::from_numbers(&[0.0, 1.0, 1.0, 1.0, answer]).unwrap();
            let mut probes = vec![Vec::new(); n_blocks];
            probes[0].push(probe);
            certify::inputs(&context, None, &probes, &[noise]).digest()
        };
        let digests = [
            digest(1.0, 1.0, 1),
            digest(2.0, 1.0, 1),
            digest(1.0, 2.0, 1),
            digest(1.0, 1.0, 2),
        ];
        assert_eq!(digests.iter().collect::<BTreeSet<_>>().len(), digests.len());
    }

    #[test]
    fn a_group_is_named_by_its_shards_and_not_by_its_place() {
        let shard = |path: &str, size: u64, etag: Option<&str>, row_group: usize| Shard {
            object: ObjectVersion {
                path: path.to_owned(),
                size,
                etag: etag.map(str::to_owned),
            },
            row_group,
            n_rows: 5,
            first_row: 0,
        };
        let name = |index: u64, shards: &[Shard]| {
            let shards = shards.to_vec();
            name_of("digest", &Group { index, shards }, &[])
        };
        let one = shard("a", 9, Some("x"), 0);
        let same = name(0, std::slice::from_ref(&one));
        assert_eq!(name(4, std::slice::from_ref(&one)), same);
        let others = [
            name(0, &[shard("b", 9, Some("x"), 0)]),
            name(0, &[shard("a", 9, Some("y"), 0)]),
            name(0, &[shard("a", 9, None, 0)]),
            name(0, &[shard("a", 8, None, 0)]),
            name(0, &[shard("a", 9, Some("x"), 1)]),
            name(0, &[one.clone(), one.clone()]),
            name(0, &[]),
            name_of(
                "another",
                &Group {
                    index: 0,
                    shards: vec![one.clone()],
                },
                &[],
            ),
            name_of(
                "digest",
                &Group {
                    index: 0,
                    shards: vec![one],
                },
                &["star".to_owned()],
            ),
        ];
        assert_eq!(
            others.iter().chain([&same]).collect::<BTreeSet<_>>().len(),
            others.len() + 1
        );
    }
}
