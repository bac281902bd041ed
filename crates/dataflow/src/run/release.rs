//! A run that makes the next release of a line.

use std::collections::BTreeSet;

use fisherflow_spectra::Group;
use fisherflow_store::{Changes, Commit, Line, Manifest, Output, StoreError, Stores, hex, now_utc};
use sha2::{Digest, Sha256};

use crate::basis::{Basis, Pinned};
use crate::context::Context;
use crate::error::RunError;
use crate::group_name::name_of;
use crate::job::ExistingOutput;
use crate::passes::correction::CORRECTION;
use crate::passes::curvature::{self, CURVATURE};
use crate::passes::exclusions;
use crate::run::claim::holder_runs;
use crate::run::membership;
use crate::run::stage_state::{self, FitState, Step};
use crate::run::stages::residual_covariance;
use crate::run::still_there;

/// Which release of which line a run makes.
pub(crate) struct Release {
    pub(crate) line: Line,
    /// Which one, from 1.
    pub(crate) number: u64,
    /// The one before; `None` for the first.
    pub(crate) parent: Option<Commit>,
}

impl Release {
    /// The release after the last one committed.
    ///
    /// # Errors
    /// The folder holds an output of its own: readers would take it for the line, or the line for it.
    pub(crate) fn next(stores: &Stores, line: &str) -> Result<Self, RunError> {
        let line = Line::open(stores, line)?;
        let parent = line.latest()?;
        let itself = Output::open(stores, line.uri())?;
        if itself.manifest()?.is_some() || itself.holder()?.is_some() {
            return Err(RunError::Usage(format!(
                "{} holds an output of its own and is no line of releases: name another folder in output.uri, or leave output.releases out",
                line.uri()
            )));
        }
        Ok(Self {
            number: parent.as_ref().map_or(1, |parent| parent.release + 1),
            line,
            parent,
        })
    }

    /// URI of its output.
    pub(crate) fn uri(&self) -> String {
        self.line.release_uri(self.number)
    }

    /// Refuses where another run has committed it in the meantime.
    pub(crate) fn check_open(&self) -> Result<(), RunError> {
        match self.line.commit_of(self.number)? {
            None => Ok(()),
            Some(commit) => Err(RunError::Store(StoreError::CommitConflict {
                output: self.uri(),
                run_id: commit.run_id,
                difference: format!(
                    "as release {} at {}; run again for the next",
                    commit.release, commit.created
                ),
            })),
        }
    }

    /// Refuses a basis that is not the one that the release before was made about: the sums that the line keeps are about that one, and no number
    /// of a release would show it.
    pub(crate) fn check_basis(&self, found: Option<&[u8]>) -> Result<(), RunError> {
        let Some(parent) = &self.parent else { return Ok(()) };
        let found = found.map(|bytes| hex(&Sha256::digest(bytes)));
        if found.as_ref() == Some(&parent.basis_sha256) {
            return Ok(());
        }
        let (uri, release, expected) = (self.line.basis_uri(), parent.release, &parent.basis_sha256);
        let found = found.map_or("is missing".to_owned(), |found| format!("has SHA-256 {found}"));
        Err(RunError::Refused(format!(
            "{uri} {found}, and release {release} was made about the basis of SHA-256 {expected}: put that one back from a copy, or begin a new \
             line with another output.uri"
        )))
    }

    /// Whether the release before is of this very run: then there is nothing to release.
    pub(crate) fn is_released(&self, run_id: &str) -> bool {
        self.parent.as_ref().is_some_and(|parent| parent.run_id == run_id)
    }
}

/// What a run changes of the release before, where it makes one; `computed`: groups whose sums it computed.
pub(crate) fn changes(context: &Context, excluded: &[Vec<String>], computed: u64) -> Option<Changes> {
    let release = context.release.as_ref()?;
    let id_column = context.fit.catalogue.facts().id_column();
    let changes = membership::changes(release.parent.as_ref(), &context.fit.groups, excluded, &id_column);
    Some(Changes {
        computed: Some(computed),
        ..changes
    })
}

/// How many groups of the fit have no sums of their name in the line, and would be computed, once the exclusions are looked up; writes nothing.
pub(crate) fn to_compute(context: &Context) -> Result<u64, RunError> {
    let groups = &context.fit.groups;
    let Some(Pinned { basis, .. }) = &context.basis else {
        return Ok(groups.len() as u64);
    };
    let noise = context.in_normalised_units(residual_covariance(context, basis.estimate.as_ref())?)?;
    let digest = curvature::inputs(context, basis.population.as_ref(), &basis.references, &noise).digest();
    let name = |group: &Group| name_of(&digest, group, context.excluded_in(group));
    let names: BTreeSet<String> = groups.iter().map(name).collect();
    Ok(groups.len() as u64 - context.groups.n_recorded(CURVATURE, &names)?)
}

/// Commits the output, which is complete, as the release; `fit`: what its fit left.
pub(crate) fn commit(context: &Context, excluded: &[Vec<String>], fit: &FitState) -> Result<(), RunError> {
    let Some(release) = &context.release else {
        return Ok(());
    };
    let manifest = context.stores.read(&context.output.child("manifest.json"))?;
    let basis = basis_of(context, release, fit)?;
    let changes = changes(context, excluded, fit.computed)
        .ok_or_else(|| RunError::Internal("a release of no line is committed".into()))?;
    let (objects, groups) = Commit::of_groups(&context.fit.groups, |group| {
        let of_group = excluded.get(group.index as usize).cloned().unwrap_or_default();
        let digests = [(CURVATURE, Some(&fit.sums)), (CORRECTION, fit.correction.as_ref())];
        let names = digests
            .into_iter()
            .filter_map(|(pass, digest)| Some((pass.to_owned(), name_of(digest?, group, &of_group))))
            .collect();
        (of_group, names)
    });
    let commit = Commit {
        version: Commit::VERSION,
        release: release.number,
        parent: release.parent.as_ref().map(|parent| parent.release),
        run_id: context.run_id.clone(),
        created: now_utc(),
        fisherflow: env!("CARGO_PKG_VERSION").to_owned(),
        manifest_sha256: hex(&Sha256::digest(&manifest)),
        basis_sha256: hex(&Sha256::digest(&basis)),
        exclude_sha256: context.fit.catalogue.excluded().map(|list| list.sha256().to_owned()),
        spectra: context.fit.catalogue.n_rows(),
        catalogue: context.fit.catalogue.facts(),
        changes,
        row_group_bytes: objects
            .iter()
            .map(|object| context.fit.catalogue.row_group_bytes(object))
            .collect(),
        objects,
        groups,
    };
    release.line.commit(&commit)?;
    tracing::info!(release = release.number, line = release.line.uri(), changes = %commit.changes, "released");
    Ok(())
}

/// The line's basis, about which the release was made. Before the first commit another run may have pinned its own since: then this run's is pinned
/// again, for its claim is what decides whose first release it is.
fn basis_of(context: &Context, release: &Release, fit: &FitState) -> Result<Vec<u8>, RunError> {
    let pinned = release.line.basis()?;
    if release.parent.is_some() {
        release.check_basis(pinned.as_deref())?;
        return pinned.ok_or_else(|| RunError::Internal("a release was made before its line had a basis".into()));
    }
    let own = match &context.basis {
        Some(basis) => basis.bytes.clone(),
        None => Basis::found(
            context,
            fit.population.clone(),
            fit.references.clone(),
            fit.estimate.clone(),
        )
        .to_bytes()?,
    };
    if pinned.as_ref() != Some(&own) {
        release.line.replace_basis(own.clone())?;
    }
    Ok(own)
}

/// Whether this run has committed its release already: it may have, in another process, since this one looked for the last one.
///
/// # Errors
/// Another run has committed it.
pub(crate) fn is_committed(context: &Context) -> Result<bool, RunError> {
    let Some(release) = &context.release else {
        return Ok(false);
    };
    match release.line.commit_of(release.number)? {
        Some(commit) if commit.run_id == context.run_id => Ok(true),
        _ => release.check_open().map(|()| false),
    }
}

/// Commits a release whose output is complete: for a run that ended between the two.
pub(crate) fn commit_again(context: &Context) -> Result<(), RunError> {
    let Some(release) = &context.release else {
        return Ok(());
    };
    if is_committed(context)? {
        return Ok(());
    }
    let excluded = exclusions::of_all(context)?;
    let left = stage_state::find(context, Step::Fit)?;
    let fit: FitState = match &left {
        Some(bytes) => stage_state::parse(context, Step::Fit, bytes)?,
        // Cleared in the meantime by who committed it.
        None if is_committed(context)? => return Ok(()),
        None => {
            return Err(RunError::Refused(format!(
                "{} is complete and not committed, and what its fit left is gone: remove it and run again",
                release.uri()
            )));
        }
    };
    commit(context, &excluded, &fit)
}

/// The release before, and its run, where that died behind its commit, with its last steps to do. Who lives does them itself.
pub(crate) fn cut_short(context: &Context) -> Result<Option<(Output, String)>, RunError> {
    let Some(release) = &context.release else {
        return Ok(None);
    };
    let Some(parent) = &release.parent else {
        return Ok(None);
    };
    let output = Output::open(&context.stores, &release.line.release_uri(parent.release))?;
    // Its commit, and the claims of those who came to end what it had begun, stay in the log until the last of them.
    let is_left = output
        .held()?
        .is_some_and(|held| held.generation > 1 && holder_runs(&held.claim) != Some(true));
    Ok(is_left.then(|| (output, parent.run_id.clone())))
}

/// What brings a damaged release back; `next`: the number of the one after it.
pub(crate) fn to_repair_committed(next: u64) -> String {
    format!(
        "releases never change: put back from a copy what is not as it was, or run again with --overwrite, which makes release {next} of the same \
         inputs"
    )
}

/// The manifest of the release before, where it is of this very run and another one is not asked for: then there is nothing to release.
///
/// # Errors
/// That release is not as it was committed.
pub(crate) fn of_same_inputs(context: &Context) -> Result<Option<Box<Manifest>>, RunError> {
    let Some(release) = &context.release else {
        return Ok(None);
    };
    let is_asked_again = context.job.existing_output == ExistingOutput::Overwrite;
    let Some(parent) = release
        .parent
        .as_ref()
        .filter(|_| release.is_released(&context.run_id) && !is_asked_again)
    else {
        return Ok(None);
    };
    let output = Output::open(&context.stores, &release.line.release_uri(parent.release))?;
    let remedy = to_repair_committed(release.number);
    if let Some(problem) = release.line.manifest_problem(parent)? {
        return Err(RunError::Refused(format!("{}: {problem}; {remedy}", output.uri())));
    }
    let Some(manifest) = output.manifest()? else {
        return Ok(None);
    };
    still_there::check(&output, &manifest, &remedy)?;
    Ok(Some(Box::new(manifest)))
}
