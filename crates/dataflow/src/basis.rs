//! What the sums are taken about: the noise R, the references, what a masked pixel is replaced with.
//!
//! All three come from held-out spectra. Were they found anew every night, every group's sums would be other ones. So the first release of a line
//! pins them in `basis.json`, and the releases after it use that; a run file may name a basis too. C_intrinsic, the prior and the predictions are
//! always those of the run itself. Until that first release is committed, only the run that found a basis goes on with it: another finds its own,
//! for what it would correct may be what the basis was found with.

use std::collections::BTreeMap;

use fisherflow_curvature::References;
use fisherflow_posterior::ScatterEstimate;
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::error::RunError;
use crate::job::Noise;

/// Version of the document.
const VERSION: u32 = 1;
/// A label's noise that differs by more than this from the pinned one, and by more than chance, is a drift.
const DRIFT: f64 = 0.1;
/// Standard errors that chance may account for.
const CHANCE: f64 = 3.0;
/// Numbers that are told one by one, at most.
const TOLD: usize = 8;

/// What the sums are taken about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Basis {
    version: u32,
    /// The run that found it.
    run_id: String,
    network_sha256: String,
    /// Whether R is what is left beyond the photons' part.
    errors_in_variables: bool,
    /// What it is in the units of, by the run file's keys; empty where an earlier version wrote it.
    #[serde(default)]
    found_with: BTreeMap<String, String>,
    /// What a masked pixel is replaced with; `None` where nothing is known.
    pub(crate) population: Option<PixelPopulation>,
    pub(crate) references: References,
    /// R and what it was made of, label units; `None` where the run file gave R.
    pub(crate) estimate: Option<ScatterEstimate>,
}

/// A basis as it stands in the store.
#[derive(Clone, Debug)]
pub(crate) struct Pinned {
    pub(crate) basis: Basis,
    /// The document.
    pub(crate) bytes: Vec<u8>,
    /// Of the document.
    pub(crate) sha256: String,
    uri: String,
}

impl Basis {
    /// The basis that a run found.
    pub(crate) fn found(
        context: &Context,
        population: Option<PixelPopulation>,
        references: References,
        estimate: Option<ScatterEstimate>,
    ) -> Self {
        Self {
            version: VERSION,
            run_id: context.run_id.clone(),
            network_sha256: context.network_sha256.clone(),
            errors_in_variables: context.job.calibration.errors_in_variables,
            found_with: units(context),
            population,
            references,
            estimate,
        }
    }

    /// As it is written: the same bytes for the same basis.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, RunError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| RunError::Internal(error.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

impl Pinned {
    /// The basis of a run: that of its line, or the one that the run file names; `None` where the run finds its own. Of a line without a release
    /// only what this very run found counts, or what the run file names; `found_by`: the run's name where it finds its own.
    pub(crate) fn find(context: &Context, found_by: &str) -> Result<Option<Self>, RunError> {
        let release = context.release.as_ref();
        let of_line = match release {
            Some(release) => {
                let bytes = release.line.basis()?;
                let bytes = bytes.filter(|bytes| release.parent.is_some() || is_found_by(bytes, found_by));
                bytes.map(|bytes| (release.line.basis_uri(), bytes))
            }
            None => None,
        };
        let named = match &context.job.basis {
            Some(uri) => Some((uri.clone(), context.stores.read(uri)?)),
            None => None,
        };
        if let (Some((of_line, has)), Some((named, says))) = (&of_line, &named)
            && has != says
        {
            return Err(RunError::Usage(format!(
                "noise.basis = {named} is not the basis of the line, {of_line}: leave it out, or begin another line with output.uri"
            )));
        }
        let found = of_line.or(named);
        if let Some(release) = release {
            release.check_basis(found.as_ref().map(|(_, bytes)| bytes.as_slice()))?;
        }
        let Some((uri, bytes)) = found else {
            return Ok(None);
        };
        let pinned = Self::read(uri, bytes)?;
        pinned.check(context)?;
        Ok(Some(pinned))
    }

    fn read(uri: String, bytes: Vec<u8>) -> Result<Self, RunError> {
        let basis: Basis = serde_json::from_slice(&bytes)
            .map_err(|error| RunError::Refused(format!("{uri} is no basis of this version of fisherflow: {error}")))?;
        if basis.version != VERSION {
            return Err(RunError::Refused(format!(
                "{uri} is a basis of version {}, and this fisherflow reads {VERSION}: begin a new line",
                basis.version
            )));
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        Ok(Self {
            basis,
            bytes,
            sha256,
            uri,
        })
    }

    /// Refuses a basis of another network, of another noise, or in other units.
    fn check(&self, context: &Context) -> Result<(), RunError> {
        let job = &context.job;
        let remedy = if job.basis.as_ref() == Some(&self.uri) {
            "leave noise.basis out"
        } else {
            "begin a new line with another output.uri"
        };
        let refused = |why: &str| Err(RunError::Refused(format!("{} {why}: {remedy}", self.uri)));
        if self.basis.network_sha256 != context.network_sha256 {
            return refused("is the basis of another network, and every sum would be about the wrong point");
        }
        if job.noise == Noise::Holdout && self.basis.estimate.is_none() {
            return refused("has no noise, for its run file gave noise.covariance: give it again, or");
        }
        if self.basis.errors_in_variables != job.calibration.errors_in_variables {
            return refused("was found with another noise.errors_in_variables");
        }
        let here = units(context);
        let mut found_with = self.basis.found_with.iter();
        if let Some((key, value)) = found_with.find(|(key, value)| here.get(*key).is_some_and(|here| here != *value)) {
            return refused(&format!(
                "was found with {key} = {value}, and here it is {}; its noise and its fluxes would be wrong",
                here[key]
            ));
        }
        Ok(())
    }

    /// Whether a run of this name found it.
    pub(crate) fn is_of(&self, run_id: &str) -> bool {
        self.basis.run_id == run_id
    }
}

/// What residuals, inputs and fluxes are in the units of, by the run file's keys: the network as file and run file describe it together.
fn units(context: &Context) -> BTreeMap<String, String> {
    let network = &context.network;
    let layers: Vec<String> = network.layer_specs().iter().map(ToString::to_string).collect();
    let labels = network.labels();
    let units = [
        ("network.layers", layers.join(", ")),
        ("network.input_mean", in_short(network.input_mean())),
        ("network.input_scale", in_short(network.input_scale())),
        ("network.labels.mean", in_short(&labels.mean)),
        ("network.labels.scale", in_short(&labels.scale)),
    ];
    units.map(|(key, value)| (key.to_owned(), value)).into()
}

/// Numbers in a few letters: one where all are the same, a hash where they are many.
fn in_short(numbers: &[f64]) -> String {
    match numbers {
        [first, others @ ..] if others.iter().all(|other| other == first) => format!("{first:?}"),
        _ if numbers.len() <= TOLD => format!("{numbers:?}"),
        _ => {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            format!("{} numbers of SHA-256 {}", numbers.len(), hex(&Sha256::digest(bytes)))
        }
    }
}

/// Whether a document is a basis that a run of this name found.
fn is_found_by(bytes: &[u8], run_id: &str) -> bool {
    #[derive(Deserialize)]
    struct Finder {
        version: u32,
        run_id: String,
    }
    let finder: Option<Finder> = serde_json::from_slice(bytes).ok();
    finder.is_some_and(|finder| finder.version == VERSION && finder.run_id == run_id)
}

/// How far the noise has moved from the pinned one, in words; `None` where it has not, as far as `today`'s held-out spectra can tell.
pub(crate) fn drift(pinned: &ScatterEstimate, today: &ScatterEstimate, labels: &[String]) -> Option<String> {
    let k = labels.len();
    let by_chance = CHANCE * (0.5 / today.n_spectra.min(pinned.n_spectra).max(1) as f64).sqrt();
    let moved: Vec<String> = (0..k)
        .filter_map(|label| {
            let at = label * k + label;
            let ratio = (today.covariance.get(at)? / pinned.covariance.get(at)?).sqrt();
            let has_moved = !ratio.is_finite() || (ratio - 1.0).abs() > DRIFT.max(by_chance);
            has_moved.then(|| format!("{} {:+.0} %", labels[label], 100.0 * (ratio - 1.0)))
        })
        .collect();
    (!moved.is_empty()).then(|| {
        format!(
            "noise: the residuals' scatter is no longer the pinned one ({}): the weights of the spectra are those of basis.json; begin a new line \
             with another output.uri to weigh them anew",
            moved.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;
    use std::sync::Arc;

    use fisherflow_network::to_safetensors;
    use fisherflow_spectra::{FluxError, Simulation};
    use fisherflow_store::{StoreOptions, Stores, simulated_columns, write_simulated};

    use super::*;
    use crate::job::{CatalogueSource, Job, Prior};
    use crate::progress::meter::Meter;

    const PIXELS: usize = 20;

    /// A job over a bare state dict and a few spectra, which are there already.
    fn job(folder: &Path) -> Job {
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let catalogue = CatalogueSource::new(path("catalogue"), simulated_columns());
        let mut job = Job::new(path("network.safetensors"), catalogue, Prior::Fixed(1.0), path("out"));
        job.network.said.layers = Some(vec!["dense".to_owned()]);
        job.network.said.input_scale = Some(vec![0.1]);
        let unit: Vec<Vec<f64>> = (0..3).map(|k| (0..3).map(|l| f64::from(k == l)).collect()).collect();
        job.noise = Noise::Covariance(unit);
        job
    }

    fn open(job: Job) -> Result<Context, RunError> {
        Context::open(Arc::new(job), (1, 1), Meter::silent())
    }

    #[test]
    fn a_basis_in_other_units_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let catalogue = folder.join("catalogue");
        write_simulated(
            &stores,
            catalogue.to_str().unwrap(),
            &Simulation::new(PIXELS, 7),
            30,
            30,
        )
        .unwrap();
        let (weight, bias) = (vec![0.25; 3 * PIXELS], [0.0; 3]);
        let layer = [
            ("layers.0.weight", &[3, PIXELS][..], &weight[..]),
            ("layers.0.bias", &[3][..], &bias[..]),
        ];
        let network = to_safetensors(layer, HashMap::new()).unwrap();
        std::fs::write(folder.join("network.safetensors"), network).unwrap();

        let context = open(job(folder)).unwrap();
        let references = References::zero(context.network.dense_layers(), 3);
        let mut basis = Basis::found(&context, None, references, None);
        let file = folder.join("basis.json");
        std::fs::write(&file, basis.to_bytes().unwrap()).unwrap();
        let about = |change: &dyn Fn(&mut Job)| {
            let mut job = job(folder);
            job.basis = Some(file.to_str().unwrap().to_owned());
            change(&mut job);
            open(job).map(|_| ())
        };
        about(&|_| ()).unwrap();
        // The same numbers in other words.
        about(&|job| job.network.said.input_scale = Some(vec![0.1; PIXELS])).unwrap();
        // Other columns may hold the same numbers.
        about(&|job| {
            job.catalogue.columns.flux = "flux_err".to_owned();
            job.catalogue.columns.error = FluxError::Exact;
        })
        .unwrap();
        let mut other_pixel = vec![0.1; PIXELS];
        other_pixel[7] = 0.2;
        type Change<'a> = &'a dyn Fn(&mut Job);
        let others: [(&str, Change<'_>); 4] = [
            ("network.input_scale = 0.1, and here it is 1.0", &|job| {
                job.network.said.input_scale = None;
            }),
            ("network.input_scale = 0.1", &|job| {
                job.network.said.input_scale = Some(other_pixel.clone());
            }),
            ("network.input_mean", &|job| {
                job.network.said.input_mean = Some(vec![1.0]);
            }),
            ("network.layers = dense, and here it is dense, tanh", &|job| {
                job.network.said.layers = Some(vec!["dense".to_owned(), "tanh".to_owned()]);
            }),
        ];
        for (said, change) in others {
            let refused = about(change).unwrap_err();
            assert_eq!(refused.exit_code(), 3, "{refused}");
            let refused = refused.to_string();
            assert!(
                refused.contains(said) && refused.contains("leave noise.basis out"),
                "{refused}"
            );
        }

        // One of an earlier version does not say.
        basis.found_with.clear();
        std::fs::write(&file, basis.to_bytes().unwrap()).unwrap();
        about(&|job| job.network.said.input_scale = None).unwrap();
    }

    fn estimate(variances: [f64; 2], n_spectra: u64) -> ScatterEstimate {
        ScatterEstimate {
            covariance: vec![variances[0], 0.0, 0.0, variances[1]],
            n_spectra,
            skipped: 0,
            mean_residual: vec![0.0; 2],
            residual_second_moment: vec![1.0; 4],
            mean_flux: vec![0.0; 4],
            mean_weights: vec![0.0; 4],
            mean_label_covariance: vec![0.0; 4],
            eigenvalues: vec![1.0; 2],
            vanishing: 0,
            clipped: 0,
            iterations: 1,
        }
    }

    #[test]
    fn a_drift_is_more_than_chance() {
        let labels = ["teff".to_owned(), "logg".to_owned()];
        let pinned = estimate([1.0, 4.0], 10_000);
        assert_eq!(drift(&pinned, &estimate([1.1, 4.0], 10_000), &labels), None);
        let said = drift(&pinned, &estimate([1.0, 9.0], 10_000), &labels).unwrap();
        assert!(said.contains("(logg +50 %)"), "{said}");
        // A fifth more, of 50 spectra: three standard errors are 30 %.
        assert_eq!(drift(&pinned, &estimate([1.44, 4.0], 50), &labels), None);
        assert!(drift(&pinned, &estimate([1.44, 4.0], 5000), &labels).is_some());
    }
}
