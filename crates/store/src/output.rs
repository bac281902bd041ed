//! An output: claimed by one run, written file by file, committed by its manifest.
//!
//! Of two runs on one output the second refuses ([`crate::output::claim`]). `manifest.json` is created by a conditional write once every file is there; `_SUCCESS` comes last. `predictions/`, `jacobians/` and `posterior/` hold Parquet alone.

pub(crate) mod claim;
pub(crate) mod folders;
pub(crate) mod manifest;
pub(crate) mod rendezvous;
pub(crate) mod tidy;
pub(crate) mod verify;

use std::collections::BTreeSet;
use std::io::ErrorKind;

use fisherflow_spectra::ObjectVersion;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::hex::hex;
use crate::line::own_folder;
use crate::objects::location::{Place, without_links};
use crate::output::claim::CLAIMS;
use crate::{Creation, GroupStore, Manifest, Rendezvous, StoreError, Stores, WrittenFile};

/// Where tables are, in an output.
pub(crate) const DATA: [&str; 3] = ["predictions", "jacobians", "posterior"];
/// Where intermediate results are.
pub(crate) const STAGES: &str = "stages";
/// Where the processes of a run find one another: nothing of a run's results.
pub(crate) const RENDEZVOUS: &str = "rendezvous";
pub(crate) const CLAIM: &str = "claim.json";
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const SUCCESS: &str = "_SUCCESS";
/// The page of plots, which another crate writes.
pub(crate) const REPORT: &str = "report.html";
/// The documents beside its folders.
pub(crate) const DOCUMENTS: [&str; 4] = [CLAIM, MANIFEST, SUCCESS, REPORT];
/// All folders of an output.
const FOLDERS: [&str; 6] = [DATA[0], DATA[1], DATA[2], STAGES, CLAIMS, RENDEZVOUS];

/// What of an output an object in it goes with, by path: a folder, with its `/`, or a document; `None`: no run writes such an object.
fn part_of(path: &str) -> Option<&str> {
    let Some((folder, below)) = path.split_once('/') else {
        return DOCUMENTS.contains(&path).then_some(path);
    };
    let start = folder.len() + 1;
    let end = match folder {
        // The status is written while the others go: its folder must not.
        STAGES => below.find('/').map_or(path.len(), |at| start + at + 1),
        _ if FOLDERS.contains(&folder) => start,
        _ => return None,
    };
    Some(&path[..end])
}

/// The place that a run writes to.
#[derive(Clone, Debug)]
pub struct Output {
    stores: Stores,
    uri: String,
}

impl Output {
    /// Where a run tells how far it is.
    pub const STATUS: &str = "stages/status.json";
    /// What a run reads: the first that it writes under its claim.
    pub const INPUTS: &str = "stages/inputs.json";

    /// The output at a URI; touches nothing.
    ///
    /// # Errors
    /// The URI cannot be an output: it is a file, for instance, a link that leads nowhere, or `<line>@<v>`, which means a release.
    pub fn open(stores: &Stores, uri: &str) -> Result<Self, StoreError> {
        Ok(Self {
            stores: stores.clone(),
            uri: own_folder(stores, uri, "an output")?,
        })
    }

    /// Its URI, absolute.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The URI of something in it.
    #[must_use]
    pub fn child(&self, path: &str) -> String {
        format!("{}/{path}", self.uri)
    }

    /// What was committed; `None` where nothing was.
    ///
    /// # Errors
    /// The store does not say, or the manifest cannot be understood.
    pub fn manifest(&self) -> Result<Option<Manifest>, StoreError> {
        self.document(MANIFEST)
    }

    /// What was committed.
    ///
    /// # Errors
    /// Nothing was ([`StoreError::NotComplete`]), no run has even begun there ([`StoreError::NoOutput`]), or as [`Output::manifest`].
    pub fn complete(&self) -> Result<Manifest, StoreError> {
        if let Some(manifest) = self.manifest()? {
            return Ok(manifest);
        }
        let output = self.uri.clone();
        Err(match self.held()? {
            Some(_) => StoreError::NotComplete { output },
            None => StoreError::NoOutput { output },
        })
    }

    /// Commits: tables that the manifest does not list are deleted, those it lists are looked for, then it becomes visible. Committing the
    /// same files again is no error.
    ///
    /// # Errors
    /// A file is missing or of another size, or another run committed ([`StoreError::CommitConflict`]).
    pub fn commit(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let uri = self.child(MANIFEST);
        self.tidy(manifest)?;
        let mut sorted = manifest.clone();
        sorted.files.sort();
        let document = self.stores.document_bytes(&uri, &sorted)?;
        match self.stores.create_once(&uri, document)? {
            Creation::Created | Creation::Ours => {}
            Creation::Others(found) => {
                let found: Manifest = self.stores.parse_document(&uri, &found)?;
                if let Some(difference) = sorted.difference(&found) {
                    return Err(StoreError::CommitConflict {
                        output: self.uri.clone(),
                        run_id: found.run_id,
                        difference: difference.to_owned(),
                    });
                }
            }
        }
        self.stores.write(&self.child(SUCCESS), Vec::new())
    }

    /// Whether a commit went to its last step.
    ///
    /// # Errors
    /// The store does not say.
    pub fn is_marked(&self) -> Result<bool, StoreError> {
        self.stores.exists(&self.child(SUCCESS))
    }

    /// Writes a file that is no table.
    ///
    /// # Errors
    /// The store does not take it.
    pub fn put(&self, path: &str, bytes: Vec<u8>) -> Result<WrittenFile, StoreError> {
        let file = WrittenFile {
            path: path.to_owned(),
            rows: 0,
            bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(&bytes)),
        };
        self.stores.write(&self.child(path), bytes)?;
        Ok(file)
    }

    /// Where the groups of this run leave what they gave, until it is committed.
    #[must_use]
    pub fn groups(&self) -> GroupStore {
        GroupStore::new(&self.stores, &self.child(&format!("{STAGES}/groups")))
    }

    /// Everything that is there, by path within the output, with its size in bytes.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn contents(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let start = self.child("");
        let objects = self.objects()?;
        let relative = |path: &str| path.strip_prefix(&start).unwrap_or(path).to_owned();
        Ok(objects
            .iter()
            .map(|object| (relative(&object.path), object.size))
            .collect())
    }

    /// Whether there is nothing but claims, the status and where processes find one another: no run has begun to work under any claim.
    ///
    /// # Errors
    /// The store does not say, or cannot be listed.
    pub fn is_only_claimed(&self) -> Result<bool, StoreError> {
        // Of what has begun, or is complete, a list may be long.
        for path in [Self::INPUTS, MANIFEST] {
            if self.stores.exists(&self.child(path))? {
                return Ok(false);
            }
        }
        let is_of_claim = |path: &str| {
            let folder = path.split_once('/').map(|(folder, _)| folder);
            [CLAIM, Self::STATUS].contains(&path) || folder.is_some_and(|folder| [CLAIMS, RENDEZVOUS].contains(&folder))
        };
        Ok(self.contents()?.iter().all(|(path, _)| is_of_claim(path)))
    }

    /// Deletes the intermediate results.
    ///
    /// # Errors
    /// They cannot be deleted.
    pub fn clear_stages(&self) -> Result<u64, StoreError> {
        self.stores.delete_prefix(&self.child(STAGES))
    }

    /// Where the processes of a run find one another.
    #[must_use]
    pub fn rendezvous(&self, run_id: &str) -> Rendezvous {
        Rendezvous::new(&self.stores, &self.child(&format!("{RENDEZVOUS}/{run_id}")))
    }

    /// Deletes what processes of any run left there to be found.
    ///
    /// # Errors
    /// It cannot be deleted.
    pub fn clear_rendezvous(&self) -> Result<u64, StoreError> {
        self.stores.delete_prefix(&self.child(RENDEZVOUS))
    }

    /// Deletes what the run of a complete output alone needed: stages, where its processes found one another, and at last its log of claims, for as
    /// long as the commit is in that, these steps are to do.
    ///
    /// # Errors
    /// Something cannot be deleted.
    pub fn clear_working_files(&self) -> Result<(), StoreError> {
        self.clear_stages()?;
        self.clear_rendezvous()?;
        self.clear_claims()?;
        self.clear_staged();
        Ok(())
    }

    /// Tells of an object, of a URI as listings give it, whether it lies where runs write, and delete what they find; on a disk by way of links, too.
    pub fn place(&self) -> impl Fn(&str) -> bool {
        let is_part = |folder: &str, object: &str| {
            let path = object.strip_prefix(folder).and_then(|path| path.strip_prefix('/'));
            path.is_some_and(|path| part_of(path).is_some())
        };
        let folder = self.uri.strip_prefix('/').map(without_links);
        move |uri| {
            let linked = folder.as_deref().zip(uri.strip_prefix('/'));
            is_part(&self.uri, uri) || linked.is_some_and(|(folder, object)| is_part(folder, &without_links(object)))
        }
    }

    /// Refuses to make room for another run where not all that is there is of runs; touches nothing.
    ///
    /// # Errors
    /// It is not ([`StoreError::NotOfARun`]), or cannot be listed.
    pub fn check_removable(&self) -> Result<(), StoreError> {
        self.parts().map(drop)
    }

    /// The parts of all that is there, by path.
    fn parts(&self) -> Result<BTreeSet<String>, StoreError> {
        let contents = self.contents()?;
        let parts = contents.iter().map(|(path, _)| {
            part_of(path).map(str::to_owned).ok_or_else(|| StoreError::NotOfARun {
                output: self.uri.clone(),
                object: self.child(path),
            })
        });
        parts.collect()
    }

    /// Refuses a place that nobody holds and that no run could claim, whatever it may overwrite; touches nothing.
    ///
    /// # Errors
    /// It holds what is not ours ([`StoreError::NotOurs`]), lies below a file ([`StoreError::NotWritable`]), or cannot be listed.
    pub fn check_claimable(&self) -> Result<(), StoreError> {
        let location = self.stores.locate(&self.uri)?;
        if location.place == Place::Local
            && let Err(error) = std::fs::metadata(location.uri())
            && error.kind() == ErrorKind::NotADirectory
        {
            return Err(StoreError::NotWritable {
                uri: self.child(CLAIM),
                source: self.stores.cause(&error),
            });
        }
        match self.foreign()? {
            // Unless it is of whoever has claimed it since.
            Some(error @ StoreError::NotOurs { .. }) if !self.stores.exists(&self.child(CLAIM))? => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Everything it holds, but the markers of its folders on S3: no listing tells that of an empty one from a file.
    fn objects(&self) -> Result<Vec<ObjectVersion>, StoreError> {
        let mut objects = self.stores.list_all(&self.uri)?;
        let is_folder = |path: &str| FOLDERS.iter().any(|folder| path == self.child(folder));
        objects.retain(|object| object.size > 0 || !is_folder(&object.path));
        Ok(objects)
    }

    /// The error that a place gives which holds something but our claim, and where processes find one another: those of this very run may be there
    /// before it.
    pub(crate) fn foreign(&self) -> Result<Option<StoreError>, StoreError> {
        let (claim, meeting) = (self.child(CLAIM), self.child(RENDEZVOUS) + "/");
        let is_foreign = |object: &ObjectVersion| object.path != claim && !object.path.starts_with(&meeting);
        // There may be millions, and one is enough. Which without bytes are markers of folders only all of them tell.
        let found = self
            .stores
            .first_under(&self.uri, |object| object.size > 0 && is_foreign(object))?;
        let found = match found {
            Some(object) => Some(object),
            None => self.objects()?.into_iter().find(is_foreign),
        };
        let Some(object) = found else { return Ok(None) };
        Ok(Some(match self.manifest()? {
            Some(manifest) => StoreError::Complete {
                output: self.uri.clone(),
                run_id: manifest.run_id,
            },
            None => StoreError::NotOurs {
                output: self.uri.clone(),
                object: object.path,
            },
        }))
    }

    pub(crate) fn document<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        self.stores.document(&self.child(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    #[test]
    fn what_runs_write_is_told_from_what_they_do_not() {
        for (path, part) in [
            ("claim.json", "claim.json"),
            ("report.html", "report.html"),
            ("claims/000002.json", "claims/"),
            ("posterior/inverse/block-000.parquet", "posterior/"),
            ("stages/status.json", "stages/status.json"),
            ("stages/groups/curvature/c9.done", "stages/groups/"),
        ] {
            assert_eq!(part_of(path), Some(part), "{path}");
        }
        for path in [
            "thesis.tex",
            "network.safetensors",
            "report.html/a",
            "posteriors/a.parquet",
            "mine/manifest.json",
            // Of any run whose scratch it is, and that may be at work.
            "fisherflow-00c0ffee00c0ffee/prior-0/a",
        ] {
            assert_eq!(part_of(path), None, "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_lies_in_an_output_is_known_behind_links() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(at("disk")).unwrap();
        std::os::unix::fs::symlink(at("disk"), at("data")).unwrap();
        stores
            .write(&at("disk/out/posterior/net.safetensors"), vec![1])
            .unwrap();
        std::os::unix::fs::symlink(at("disk/out/posterior/net.safetensors"), at("net.safetensors")).unwrap();
        for uri in ["data/out", "disk/out"] {
            let output = Output::open(&stores, &at(uri)).unwrap();
            let is_in_it = output.place();
            for object in [
                "data/out/posterior/net.safetensors",
                "disk/out/posterior/net.safetensors",
                "net.safetensors",
            ] {
                assert!(is_in_it(&at(object)), "{object} is in {uri}");
            }
            for object in ["data/out/net.safetensors", "disk/posterior/net.safetensors"] {
                assert!(!is_in_it(&at(object)), "{object} is not in {uri}");
            }
        }
    }

    #[test]
    fn a_claim_alone_is_told_from_what_was_begun() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let output = Output::open(&stores, folder.path().to_str().unwrap()).unwrap();
        for path in [
            CLAIM,
            "claims/000002.json",
            "claims/000001.alive",
            "rendezvous/r/0.json",
            Output::STATUS,
        ] {
            output.put(path, vec![1]).unwrap();
        }
        assert!(output.is_only_claimed().unwrap());
        for path in [
            Output::INPUTS,
            MANIFEST,
            "stages/fit.json",
            "predictions/part-00000.parquet",
        ] {
            output.put(path, vec![1]).unwrap();
            assert!(!output.is_only_claimed().unwrap(), "{path}");
            stores.delete(&output.child(path)).unwrap();
        }
        assert!(output.is_only_claimed().unwrap());
    }
}
