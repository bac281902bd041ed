//! `commits/<v>.json`: one release of a line, and everything it stands on.

use std::collections::BTreeMap;

use fisherflow_spectra::{Group, ObjectVersion};
use serde::{Deserialize, Serialize};

use crate::CatalogueFacts;

/// A released output. A release is there if and only if this document is, and it never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Of this document: 1.
    pub version: u32,
    /// Which release, from 1.
    pub release: u64,
    /// The release before it; none for the first.
    pub parent: Option<u64>,
    /// The run.
    pub run_id: String,
    /// When it was committed: RFC 3339, UTC.
    pub created: String,
    /// Of the program.
    pub fisherflow: String,
    /// Of `releases/<v>/manifest.json`.
    pub manifest_sha256: String,
    /// Of the basis that its sums were taken about.
    pub basis_sha256: String,
    /// Of the list of identifiers that were left out; none: no list.
    pub exclude_sha256: Option<String>,
    /// Rows of the fit's catalogue.
    pub spectra: u64,
    /// What the objects of the fit's catalogue agree on.
    pub catalogue: CatalogueFacts,
    /// Against the release before.
    pub changes: Changes,
    /// The objects of the fit's catalogue that have rows, by path.
    pub objects: Vec<ObjectVersion>,
    /// Of each of them, the bytes that are read of its largest row group. None: an earlier version did not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub row_group_bytes: Vec<u64>,
    /// Its reduction groups, in order.
    pub groups: Vec<ReleasedGroup>,
}

/// One reduction group of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasedGroup {
    /// Names the row groups that it holds: its ids are in `groups/ids/<membership>-<column>.parquet`.
    pub membership: String,
    /// Row groups, in order: position of the object in [`Commit::objects`], position in the object, rows.
    pub shards: Vec<(usize, usize, u64)>,
    /// The identifiers in it that the release leaves out, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
    /// By pass, the name of its checkpoint below `groups/`.
    pub checkpoints: BTreeMap<String, String>,
}

/// What a release changes of the one before. Nobody before: everything is added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Objects that were not there.
    pub added: Vec<String>,
    /// Objects of another version.
    pub replaced: Vec<String>,
    /// Objects that are gone.
    pub retracted: Vec<String>,
    /// Identifiers left out that were not left out before, or not there.
    pub excluded: u64,
    /// Identifiers left out before, and not now: readmitted, or gone.
    pub no_longer_excluded: u64,
    /// Reduction groups whose objects or exclusions are not as they were, by their index.
    pub touched: Vec<u64>,
    /// Reduction groups whose sums were computed, the others' being in the store: the touched ones, or more where the settings are not those of the
    /// release before, or a group leaves files of one run. None: an earlier version did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computed: Option<u64>,
    /// Reduction groups.
    pub groups: u64,
}

impl Commit {
    /// The version that is written.
    pub const VERSION: u32 = 1;

    /// The groups of a release as a commit holds them: its objects, and each group with what `of` says of it.
    #[must_use]
    pub fn of_groups(
        groups: &[Group],
        mut of: impl FnMut(&Group) -> (Vec<String>, BTreeMap<String, String>),
    ) -> (Vec<ObjectVersion>, Vec<ReleasedGroup>) {
        let mut objects: Vec<ObjectVersion> = Vec::new();
        let mut committed = Vec::with_capacity(groups.len());
        for group in groups {
            let mut shards = Vec::with_capacity(group.shards.len());
            for shard in &group.shards {
                if objects.last() != Some(&shard.object) {
                    objects.push(shard.object.clone());
                }
                shards.push((objects.len() - 1, shard.row_group, shard.n_rows));
            }
            let (excluded, checkpoints) = of(group);
            committed.push(ReleasedGroup {
                membership: group.membership(),
                shards,
                excluded,
                checkpoints,
            });
        }
        (objects, committed)
    }
}

impl std::fmt::Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "added {}, replaced {}, retracted {} objects, {} ids excluded",
            self.added.len(),
            self.replaced.len(),
            self.retracted.len(),
            self.excluded
        )?;
        if self.no_longer_excluded > 0 {
            write!(f, ", {} no longer", self.no_longer_excluded)?;
        }
        write!(f, ": {} of {} groups touched", self.touched.len(), self.groups)?;
        match self.computed {
            Some(computed) => write!(f, ", {computed} computed"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use fisherflow_spectra::Shard;

    use super::*;

    fn shard(object: &str, row_group: usize) -> Shard {
        Shard {
            object: ObjectVersion {
                path: object.to_owned(),
                size: 10,
                etag: Some("e".to_owned()),
            },
            row_group,
            n_rows: 5,
            first_row: 5 * row_group as u64,
        }
    }

    #[test]
    fn groups_name_each_object_once() {
        let groups = [vec![shard("a", 0), shard("a", 1)], vec![shard("a", 2), shard("b", 0)]];
        let groups: Vec<Group> = (0..)
            .zip(groups)
            .map(|(index, shards)| Group { index, shards })
            .collect();
        let (objects, committed) = Commit::of_groups(&groups, |_| (Vec::new(), BTreeMap::new()));
        assert_eq!(objects.len(), 2);
        assert_eq!(committed[0].shards, [(0, 0, 5), (0, 1, 5)]);
        assert_eq!(committed[1].shards, [(0, 2, 5), (1, 0, 5)]);
        assert_ne!(committed[0].membership, committed[1].membership);
    }

    #[test]
    fn changes_are_said_in_a_line() {
        let mut changes = Changes {
            added: vec!["a".into(); 5],
            replaced: vec!["b".into(); 2],
            retracted: vec!["c".into(); 3],
            excluded: 40,
            no_longer_excluded: 0,
            touched: (0..9).collect(),
            computed: None,
            groups: 61,
        };
        let said = "added 5, replaced 2, retracted 3 objects, 40 ids excluded: 9 of 61 groups touched";
        assert_eq!(changes.to_string(), said);
        changes.computed = Some(61);
        assert_eq!(changes.to_string(), format!("{said}, 61 computed"));
    }
}
