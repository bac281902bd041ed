//! A run that makes the next release of a line.

use fisherflow_store::{Changes, Commit, Line, Manifest, Output, StoreError, Stores, now_utc};
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::error::RunError;
use crate::group_name::name_of;
use crate::membership;
use crate::passes::correction::CORRECTION;
use crate::passes::curvature::CURVATURE;
use crate::passes::exclusions;
use crate::stage_state::{self, FitState};

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
    pub(crate) fn next(stores: &Stores, line: &str) -> Result<Self, RunError> {
        let line = Line::open(stores, line)?;
        let parent = line.latest()?;
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

    /// Whether the release before is of this very run: then there is nothing to release.
    pub(crate) fn is_released(&self, run_id: &str) -> bool {
        self.parent.as_ref().is_some_and(|parent| parent.run_id == run_id)
    }
}

/// What today's plan changes of the release before, where the run makes one.
pub(crate) fn changes(context: &Context, excluded: &[Vec<String>]) -> Option<Changes> {
    let release = context.release.as_ref()?;
    Some(membership::changes(
        release.parent.as_ref(),
        &context.fit.groups,
        excluded,
    ))
}

/// Commits the output, which is complete, as the release; `fit`: what its fit left.
pub(crate) fn commit(context: &Context, excluded: &[Vec<String>], fit: &FitState) -> Result<(), RunError> {
    let Some(release) = &context.release else {
        return Ok(());
    };
    let manifest = context.stores.read(&context.output.child("manifest.json"))?;
    let basis = release
        .line
        .basis()?
        .ok_or_else(|| RunError::Internal("a release was made before its line had a basis".into()))?;
    let changes = membership::changes(release.parent.as_ref(), &context.fit.groups, excluded);
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
        manifest_sha256: sha256(&manifest),
        basis_sha256: sha256(&basis),
        exclude_sha256: context.fit.catalogue.excluded().map(|list| list.sha256().to_owned()),
        spectra: context.fit.catalogue.n_rows(),
        catalogue: context.fit.catalogue.facts(),
        changes,
        objects,
        groups,
    };
    release.line.commit(&commit)?;
    tracing::info!(release = release.number, line = release.line.uri(), changes = %commit.changes, "released");
    Ok(())
}

/// Commits a release whose output is complete: for a run that ended between the two.
pub(crate) fn commit_again(context: &Context) -> Result<(), RunError> {
    let Some(release) = &context.release else {
        return Ok(());
    };
    let excluded = exclusions::of_all(context)?;
    let left = stage_state::find(context, "fit")?;
    let fit: FitState = match &left {
        Some(bytes) => stage_state::parse(context, "fit", bytes)?,
        None => {
            return Err(RunError::Refused(format!(
                "{} is complete and not committed, and what its fit left is gone: remove it and run again",
                release.uri()
            )));
        }
    };
    commit(context, &excluded, &fit)
}

/// The manifest of the release before, where it is of this very run: then there is nothing to release.
pub(crate) fn of_same_inputs(context: &Context) -> Result<Option<Box<Manifest>>, RunError> {
    match &context.release {
        Some(release) if release.is_released(&context.run_id) => {
            let output = Output::open(&context.stores, &release.line.release_uri(release.number - 1))?;
            Ok(output.manifest()?.map(Box::new))
        }
        _ => Ok(None),
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
