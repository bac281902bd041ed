//! What the sums are taken about: the noise R, the references, what a masked pixel is replaced with.
//!
//! All three come from held-out spectra. Were they found anew every night, every group's sums would be other ones. So the first release of a line
//! pins them in `basis.json`, and the releases after it use that; a run file may name a basis too. C_intrinsic, the prior and the predictions are
//! always those of the run itself. Until that first release is committed, only the run that found a basis goes on with it: another finds its own,
//! for what it would correct may be what the basis was found with.

use fisherflow_curvature::References;
use fisherflow_posterior::ScatterEstimate;
use fisherflow_spectra::PixelPopulation;
use fisherflow_store::{Stores, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::error::RunError;
use crate::job::{Job, Noise};
use crate::run::release::Release;

/// Version of the document.
const VERSION: u32 = 1;
/// A label's noise that differs by more than this from the pinned one, and by more than chance, is a drift.
const DRIFT: f64 = 0.1;
/// Standard errors that chance may account for.
const CHANCE: f64 = 3.0;

/// What the sums are taken about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Basis {
    version: u32,
    /// The run that found it.
    run_id: String,
    network_sha256: String,
    /// Whether R is what is left beyond the photons' part.
    errors_in_variables: bool,
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
    pub(crate) fn find(
        stores: &Stores,
        job: &Job,
        network_sha256: &str,
        release: Option<&Release>,
        found_by: &str,
    ) -> Result<Option<Self>, RunError> {
        let of_line = match release {
            Some(release) => {
                let bytes = release.line.basis()?;
                let bytes = bytes.filter(|bytes| release.parent.is_some() || is_found_by(bytes, found_by));
                bytes.map(|bytes| (release.line.basis_uri(), bytes))
            }
            None => None,
        };
        let named = match &job.basis {
            Some(uri) => Some((uri.clone(), stores.read(uri)?)),
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
        pinned.check(job, network_sha256)?;
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

    /// Refuses a basis of another network or of another noise.
    fn check(&self, job: &Job, network_sha256: &str) -> Result<(), RunError> {
        let refused = |why: &str| {
            Err(RunError::Refused(format!(
                "{} {why}: begin a new line with another output.uri",
                self.uri
            )))
        };
        if self.basis.network_sha256 != network_sha256 {
            return refused("is the basis of another network, and every sum would be about the wrong point");
        }
        if job.noise == Noise::Holdout && self.basis.estimate.is_none() {
            return refused("has no noise, for its run file gave noise.covariance: give it again, or");
        }
        if self.basis.errors_in_variables != job.calibration.errors_in_variables {
            return refused("was found with another noise.errors_in_variables");
        }
        Ok(())
    }

    /// Whether a run of this name found it.
    pub(crate) fn is_of(&self, run_id: &str) -> bool {
        self.basis.run_id == run_id
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
    use super::*;

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
