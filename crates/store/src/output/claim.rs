//! Who holds an output: a log of claims, of which the last one counts.
//!
//! `claim.json` is the first entry, `claims/000002.json` the next, and so on, each created by a conditional write: of several that want to be
//! the next one gets it. Whoever follows a holder that died or fell silent takes the place behind it; the one before finds that entry where
//! its own next step should go. For a holder commits by the same write: its commit is the next entry too, and after that no other can be
//! made. So a process that wakes up after it was given up can claim, beat and write what it likes, and still commit nothing.
//!
//! `claims/000001.alive` changes every few seconds while its claim is held, for those that cannot ask the holder's own machine.
//! Once the output is complete only `claim.json` stays.

use serde::{Deserialize, Serialize};

use crate::output::{CLAIM, DATA, MANIFEST, RENDEZVOUS, REPORT, STAGES, SUCCESS};
use crate::{Creation, Manifest, Output, StoreError};

/// Where all claims but the first are, and the signs of life of all.
pub(crate) const CLAIMS: &str = "claims";
/// What a holder leaves that gives its claim up.
const RELEASED: &[u8] = b"released\n";

/// Who holds an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The run: the same for a run that is started again.
    pub run_id: String,
    /// Name of its machine.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// When it started: RFC 3339, UTC.
    pub started: String,
    /// What only processes that see one another's numbers share; empty where it is not known.
    #[serde(default)]
    pub machine: String,
    /// When the process began, in ticks since its machine did: tells it from a later one of its number.
    #[serde(default)]
    pub born: u64,
    /// Milliseconds between its signs of life; 0 where it gives none.
    #[serde(default)]
    pub beat: u64,
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            run_id,
            host,
            pid,
            started,
            ..
        } = self;
        write!(f, "run {run_id} (process {pid} on {host}, since {started})")
    }
}

/// An entry of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    claim: Claim,
    /// Where the holder of the entry before committed: what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    committed: Option<Manifest>,
}

impl Entry {
    /// Of a claim that committed nothing.
    fn of(claim: &Claim) -> Self {
        Self {
            claim: claim.clone(),
            committed: None,
        }
    }
}

/// The last entry of an output's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Its number, from 1.
    pub generation: u64,
    /// Who made it.
    pub claim: Claim,
    /// Where it is a commit: of what.
    pub committed: Option<Manifest>,
}

/// What a holder shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignOfLife {
    /// Nothing yet.
    None,
    /// Something that changes while it lives.
    Beat(Vec<u8>),
    /// It has given the output up.
    Released,
}

/// An output's claim in this process's hands.
#[derive(Clone, Debug)]
pub struct Holding {
    output: Output,
    generation: u64,
    claim: Claim,
}

impl Output {
    /// Claims an output that nobody has claimed; `None` where somebody has. With `overwrite` a finished run without its claim is no error: it
    /// stays until [`Holding::clear`].
    ///
    /// # Errors
    /// It holds what is not ours ([`StoreError::NotOurs`]) or a finished run without its claim ([`StoreError::Complete`]), or it cannot be
    /// written.
    pub fn claim(&self, claim: &Claim, overwrite: bool) -> Result<Option<Holding>, StoreError> {
        let refusal = || -> Result<Option<StoreError>, StoreError> {
            let foreign = self.foreign()?;
            Ok(foreign.filter(|error| !(overwrite && matches!(error, StoreError::Complete { .. }))))
        };
        // Before it claims: a process that is killed behind its claim would leave one that makes ours what is there. A place that cannot be
        // looked at is one that a claim cannot be written to, and that says so better.
        if let Ok(Some(error)) = refusal() {
            // What is there may be of whoever has claimed it.
            let is_claimed = self.stores().exists(&self.entry(1))?;
            return if is_claimed { Ok(None) } else { Err(error) };
        }
        let Some(holding) = self.enter(1, claim)? else {
            return Ok(None);
        };
        // And behind it: something may have come in between.
        let error = match refusal() {
            Ok(None) => return Ok(Some(holding)),
            Ok(Some(error)) | Err(error) => error,
        };
        self.stores().delete(&self.entry(1))?;
        Err(error)
    }

    /// Takes the place behind a holder, or behind a commit; `None` where somebody else did.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn succeed(&self, held: &Held, claim: &Claim) -> Result<Option<Holding>, StoreError> {
        self.enter(held.generation + 1, claim)
    }

    /// Takes the place behind a holder, or the first where nobody holds it, to remove what is there; `None` where somebody else did.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn claim_to_remove(&self, held: Option<&Held>, claim: &Claim) -> Result<Option<Holding>, StoreError> {
        self.enter(held.map_or(1, |held| held.generation + 1), claim)
    }

    fn enter(&self, generation: u64, claim: &Claim) -> Result<Option<Holding>, StoreError> {
        let is_ours = self.append(generation, &Entry::of(claim))?.is_none();
        Ok(is_ours.then(|| Holding {
            output: self.clone(),
            generation,
            claim: claim.clone(),
        }))
    }

    /// Writes the next entry of the log; another's that is there already, unless it is ours and the answer to that got lost.
    fn append(&self, generation: u64, entry: &Entry) -> Result<Option<Entry>, StoreError> {
        let uri = self.entry(generation);
        let document = self.stores().document_bytes(&uri, entry)?;
        let created = self.stores().create_once(&uri, document.clone())?;
        if created == Creation::Created
            && generation == 1
            && let Err(error) = self.stores().check_condition(&uri, &document)
        {
            self.stores().delete(&uri)?;
            return Err(error);
        }
        match created {
            Creation::Created | Creation::Ours => Ok(None),
            Creation::Others(other) => self.stores().parse_document(&uri, &other).map(Some),
        }
    }

    /// The last entry of the log; `None` where nobody has claimed the output.
    ///
    /// # Errors
    /// The store does not say, or an entry cannot be understood.
    pub fn held(&self) -> Result<Option<Held>, StoreError> {
        let Some(first) = self.document::<Entry>(CLAIM)? else {
            return Ok(None);
        };
        let prefix = format!("{}/", self.child(CLAIMS));
        let generation = |path: &str| path.strip_prefix(&prefix)?.strip_suffix(".json")?.parse::<u64>().ok();
        let later = self.stores().list_all(&self.child(CLAIMS))?;
        let last = later.iter().filter_map(|object| generation(&object.path)).max();
        let (generation, entry) = match last {
            // Gone since: whoever completed the output has cleared its log.
            Some(last) => self.document(&name(last))?.map_or((1, first), |entry| (last, entry)),
            None => (1, first),
        };
        let Entry { claim, committed } = entry;
        Ok(Some(Held {
            generation,
            claim,
            committed,
        }))
    }

    /// Who holds it, or held it when it was completed.
    ///
    /// # Errors
    /// The store does not say.
    pub fn holder(&self) -> Result<Option<Claim>, StoreError> {
        Ok(self.held()?.map(|held| held.claim))
    }

    /// Whether the output is not another run's: one that is followed by its like harms nothing, for that writes the same.
    ///
    /// # Errors
    /// It is ([`StoreError::TakenOver`]), or the store does not say.
    pub fn check_run(&self, run_id: &str) -> Result<(), StoreError> {
        match self.holder()? {
            Some(holder) if holder.run_id != run_id => Err(self.taken_over_by(holder)),
            _ => Ok(()),
        }
    }

    /// What a holder shows of itself.
    ///
    /// # Errors
    /// The store does not say.
    pub fn sign_of_life(&self, held: &Held) -> Result<SignOfLife, StoreError> {
        // Behind its commit a holder goes on to beat as before.
        let generation = held.generation - u64::from(held.committed.is_some());
        let found = self.stores().read_if_there(&self.child(&alive(generation)))?;
        Ok(match found {
            Some(sign) if sign == RELEASED => SignOfLife::Released,
            Some(sign) => SignOfLife::Beat(sign),
            None => SignOfLife::None,
        })
    }

    fn taken_over_by(&self, claim: Claim) -> StoreError {
        StoreError::TakenOver {
            output: self.uri().to_owned(),
            claim: Box::new(claim),
        }
    }

    fn entry(&self, generation: u64) -> String {
        self.child(&name(generation))
    }
}

impl Holding {
    /// Which claim of the output it is, from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Its entry in the log: where that is in the output, and what it holds.
    ///
    /// # Errors
    /// It is no document.
    pub fn entry(&self) -> Result<(String, Vec<u8>), StoreError> {
        let output = &self.output;
        let document = output
            .stores()
            .document_bytes(&output.entry(self.generation), &Entry::of(&self.claim))?;
        Ok((name(self.generation), document))
    }

    /// Whether the output is still held by this claim, or by its commit.
    ///
    /// # Errors
    /// It is not ([`StoreError::TakenOver`], [`StoreError::ClaimRemoved`]), or the store does not say.
    pub fn check(&self) -> Result<(), StoreError> {
        let after = match self.next()? {
            None => return self.check_own(),
            Some(next) if next.committed.is_some() && next.claim == self.claim => {
                self.output.document(&name(self.generation + 2))?
            }
            next => next,
        };
        after.map_or(Ok(()), |next: Entry| Err(self.taken_over_by(next.claim)))
    }

    /// The entry behind this claim.
    fn next(&self) -> Result<Option<Entry>, StoreError> {
        self.output.document(&name(self.generation + 1))
    }

    fn check_own(&self) -> Result<(), StoreError> {
        match self.output.document::<Entry>(&name(self.generation))? {
            Some(own) if own.claim == self.claim => Ok(()),
            Some(other) => Err(self.taken_over_by(other.claim)),
            // The log was cleared, by whoever completed the output or deleted it.
            None => match self.output.holder()? {
                // What was completed is its own commit.
                Some(holder) if holder == self.claim => Ok(()),
                Some(holder) => Err(self.taken_over_by(holder)),
                None => Err(self.removed()),
            },
        }
    }

    /// Gives a sign of life that differs from the one before it.
    ///
    /// # Errors
    /// As [`Holding::check`].
    pub fn beat(&self, number: u64) -> Result<(), StoreError> {
        self.check()?;
        self.show(format!("{number}\n").into_bytes())
    }

    /// Gives the output up: whoever runs the same run on any machine need not wait to see whether this process lives.
    ///
    /// # Errors
    /// As [`Holding::check`].
    pub fn release(&self) -> Result<(), StoreError> {
        if self.next()?.is_some_and(|next| next.claim == self.claim) {
            // Its own commit, whose last steps failed: whoever comes makes them.
            return Ok(());
        }
        self.check()?;
        self.show(RELEASED.to_vec())
    }

    /// Deletes what others left in the output: all but the claims, the status and where the processes of this run find one another. The manifest
    /// and the page go first, so that no reader takes for whole what is half gone. Where something is there that no run wrote, nothing goes.
    ///
    /// # Errors
    /// As [`Holding::check`] or [`Output::check_removable`], or something cannot be deleted.
    pub fn clear(&self) -> Result<(), StoreError> {
        let (output, stores) = (&self.output, self.output.stores());
        let mut parts = output.parts()?;
        for kept in [CLAIM, &format!("{CLAIMS}/"), &format!("{RENDEZVOUS}/"), Output::STATUS] {
            parts.remove(kept);
        }
        let marks = [SUCCESS, MANIFEST, REPORT];
        let others = parts.iter().map(String::as_str).filter(|part| !marks.contains(part));
        for part in marks.into_iter().chain(others) {
            // Whoever was followed meanwhile would delete what the other has made since.
            self.check()?;
            match part.strip_suffix('/') {
                Some(folder) => stores
                    .delete_prefix_while(&output.child(folder), || self.check())
                    .map(drop)?,
                None => stores.delete(&output.child(part))?,
            }
        }
        Ok(())
    }

    /// Commits: from here on nobody can take the output over, and whoever comes finishes what this process may not.
    ///
    /// # Errors
    /// The output was taken over ([`StoreError::TakenOver`]), or cannot be written.
    pub fn commit(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let first = self.first()?;
        // The log may be cleared since, and its next place free: by whoever completed the output.
        self.check_own()?;
        self.commit_behind(first.as_ref(), manifest)
    }

    /// `first`: who made the log's first entry, at a moment before this claim was last seen in it.
    fn commit_behind(&self, first: Option<&Claim>, manifest: &Manifest) -> Result<(), StoreError> {
        let entry = Entry {
            claim: self.claim.clone(),
            committed: Some(manifest.clone()),
        };
        match self.output.append(self.generation + 1, &entry)? {
            None => {}
            // It has committed before.
            Some(other) if other.claim == self.claim => return self.check(),
            Some(other) => return Err(self.taken_over_by(other.claim)),
        }
        // Cleared only now: its first entry is the claim that completed the output, be it this one's, and what was made behind it no commit.
        match self.first()? {
            now if now.as_ref() == first || now.as_ref() == Some(&self.claim) => Ok(()),
            now => {
                self.output.stores().delete(&self.output.entry(self.generation + 1))?;
                Err(now.map_or_else(|| self.removed(), |other| self.taken_over_by(other)))
            }
        }
    }

    /// Who made the log's first entry.
    fn first(&self) -> Result<Option<Claim>, StoreError> {
        Ok(self.output.document::<Entry>(CLAIM)?.map(|entry| entry.claim))
    }

    /// Whether an object is this claim's entry.
    pub(crate) fn is_entry(&self, uri: &str) -> bool {
        uri == self.output.entry(self.generation)
    }

    /// Whether an object is of the log of claims.
    pub(crate) fn is_of_log(&self, uri: &str) -> bool {
        uri == self.output.child(CLAIM) || uri.starts_with(&self.output.child(&format!("{CLAIMS}/")))
    }

    /// Takes this claim out of the log again, where nothing was done under it; whoever followed it stays.
    pub(crate) fn withdraw(&self) -> Result<(), StoreError> {
        if self.next()?.is_some() {
            return Ok(());
        }
        self.output.stores().delete(&self.output.entry(self.generation))
    }

    /// Removes, on a disk, what a killed process left half written: no listing shows it.
    pub(crate) fn clear_half_written(&self) {
        for directory in DATA.into_iter().chain([STAGES]) {
            self.output.remove_staged(directory);
        }
        self.output.clear_staged();
    }

    /// Deletes the log of an output that holds nothing else any more: the first entry last, for it is what shows the others to whoever comes.
    pub(crate) fn clear_log(&self) -> Result<(), StoreError> {
        self.check()?;
        let stores = self.output.stores();
        for generation in (1..=self.generation).rev() {
            stores.delete(&self.output.child(&alive(generation)))?;
            stores.delete(&self.output.child(&name(generation)))?;
        }
        Ok(())
    }

    fn show(&self, sign: Vec<u8>) -> Result<(), StoreError> {
        let uri = self.output.child(&alive(self.generation));
        self.output.stores().write(&uri, sign)
    }

    fn taken_over_by(&self, claim: Claim) -> StoreError {
        self.output.taken_over_by(claim)
    }

    fn removed(&self) -> StoreError {
        StoreError::ClaimRemoved {
            output: self.output.uri().to_owned(),
        }
    }
}

impl Output {
    /// Leaves of a complete output's log the claim that completed it.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn clear_claims(&self) -> Result<(), StoreError> {
        let Some(held) = self.held()? else { return Ok(()) };
        if held.generation > 1 {
            let uri = self.entry(1);
            let document = self.stores().document_bytes(&uri, &Entry::of(&held.claim))?;
            self.stores().write(&uri, document)?;
        }
        self.stores().delete_prefix(&self.child(CLAIMS)).map(drop)
    }
}

fn name(generation: u64) -> String {
    if generation == 1 {
        CLAIM.to_owned()
    } else {
        format!("{CLAIMS}/{generation:06}.json")
    }
}

fn alive(generation: u64) -> String {
    format!("{CLAIMS}/{generation:06}.alive")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StoreOptions, Stores};

    /// A process killed at any moment of its claim leaves none there.
    #[test]
    fn what_is_not_ours_is_not_even_claimed_for_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.tex"), b"x").unwrap();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let output = Output::open(&stores, folder.path().to_str().unwrap()).unwrap();
        let claim = of_process(1);
        for overwrite in [false, true] {
            let error = output.claim(&claim, overwrite).unwrap_err();
            assert!(matches!(error, StoreError::NotOurs { .. }), "{error}");
        }
        assert_eq!(stores.traffic().counts().bytes_written, 0);
        // What another holder has written since it claimed is no stranger's.
        std::fs::write(folder.path().join(CLAIM), b"{}").unwrap();
        assert!(output.claim(&claim, false).unwrap().is_none());
    }

    /// A process that slept between its look at the log and its commit, while others followed it, completed the output and cleared the log.
    #[test]
    fn a_commit_behind_a_cleared_log_is_none() {
        for generation in [1, 2] {
            let folder = tempfile::tempdir().unwrap();
            let stores = Stores::new(StoreOptions::default(), 1).unwrap();
            let output = Output::open(&stores, folder.path().to_str().unwrap()).unwrap();
            let mut sleeper = output.claim(&of_process(1), false).unwrap().unwrap();
            if generation == 2 {
                let held = output.held().unwrap().unwrap();
                sleeper = output.succeed(&held, &of_process(2)).unwrap().unwrap();
            }
            let (first, held) = (sleeper.first().unwrap(), output.held().unwrap().unwrap());
            sleeper.check().unwrap();
            let other = output.succeed(&held, &of_process(9)).unwrap().unwrap();
            other.commit(&manifest()).unwrap();
            output.clear_claims().unwrap();

            let error = sleeper.commit_behind(first.as_ref(), &manifest()).unwrap_err();
            assert!(
                matches!(&error, StoreError::TakenOver { claim, .. } if claim.pid == 9),
                "{error}"
            );
            let left = output.held().unwrap().unwrap();
            assert_eq!((left.generation, left.claim.pid, left.committed), (1, 9, None));
            assert!(sleeper.check().is_err() && other.check().is_ok());
        }
    }

    /// One that was completed by whoever came after its commit has committed.
    #[test]
    fn a_commit_that_others_completed_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let output = Output::open(&stores, folder.path().to_str().unwrap()).unwrap();
        output.claim(&of_process(1), false).unwrap().unwrap();
        let held = output.held().unwrap().unwrap();
        let holding = output.succeed(&held, &of_process(2)).unwrap().unwrap();
        let first = holding.first().unwrap();
        holding.commit(&manifest()).unwrap();
        output.clear_claims().unwrap();
        holding.commit_behind(first.as_ref(), &manifest()).unwrap();
    }

    fn manifest() -> Manifest {
        Manifest {
            version: Manifest::VERSION,
            fisherflow: String::new(),
            run_id: "r".into(),
            created: "2026-01-01T00:00:00Z".into(),
            inputs: Vec::new(),
            counts: [].into(),
            files: Vec::new(),
            settings: serde_json::Value::Null,
            notes: Vec::new(),
        }
    }

    fn of_process(pid: u32) -> Claim {
        Claim {
            run_id: "r".into(),
            host: "here".into(),
            pid,
            started: "2026-01-01T00:00:00Z".into(),
            machine: String::new(),
            born: 0,
            beat: 0,
        }
    }
}
