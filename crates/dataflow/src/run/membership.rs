//! What changed between a release and today's plan, as a differential collection: everything the release held counts -1, everything of today +1,
//! and what does not cancel is the change.
//!
//! A group is known by its last row group, where it ends (`group_plan`): that name stays while neighbours come and go. The collections are
//! `(group, object, version, row group)`, `(object, version)`, `(group, id)` and `(id)`, the last two of the identifiers that are left out.
//! Nothing is decided by them: which groups are computed follows from their names in the store, which cannot lie, and with other settings are
//! others for all groups.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::sync::mpsc;

use differential_dataflow::input::InputSession;
use fisherflow_spectra::{Group, ObjectVersion};
use fisherflow_store::{Changes, Commit};
use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::Probe;
use timely::worker::Worker;

/// Where a group ends: its last object and the row group in it.
type End = (String, u64);
/// Tells versions of an object apart.
type Version = (String, u64);

/// An identifier, and the column that it is of.
type Id = (String, String);

/// What there is, of a release or of today.
#[derive(Default)]
struct Held {
    /// Name and type of the column of identifiers.
    id_column: String,
    rows: Vec<(End, String, Version, u64)>,
    objects: BTreeSet<(String, Version)>,
    excluded: Vec<(End, Id)>,
    ids: BTreeSet<Id>,
}

impl Held {
    /// What a group holds, its row groups in order.
    fn push<'o>(
        &mut self,
        shards: impl DoubleEndedIterator<Item = (&'o ObjectVersion, u64)> + Clone,
        excluded: &[String],
    ) -> Option<End> {
        let (last, row_group) = shards.clone().next_back()?;
        let end = (last.path.clone(), row_group);
        for (object, row_group) in shards {
            let version = version(object);
            self.rows
                .push((end.clone(), object.path.clone(), version.clone(), row_group));
            self.objects.insert((object.path.clone(), version));
        }
        for id in excluded {
            let id = (self.id_column.clone(), id.clone());
            self.excluded.push((end.clone(), id.clone()));
            self.ids.insert(id);
        }
        Some(end)
    }
}

fn version(object: &ObjectVersion) -> Version {
    (object.etag.clone().unwrap_or_default(), object.size)
}

/// What `groups`, each with the identifiers of `id_column` in it that are left out, change of a release; without one, everything is added.
pub(crate) fn changes(before: Option<&Commit>, groups: &[Group], excluded: &[Vec<String>], id_column: &str) -> Changes {
    let mut old = Held {
        id_column: before.map_or_else(String::new, |commit| commit.catalogue.id_column()),
        ..Held::default()
    };
    for group in before.iter().flat_map(|commit| &commit.groups) {
        let objects = before.map_or(&[][..], |commit| &commit.objects);
        let shards: Vec<(&ObjectVersion, u64)> = group
            .shards
            .iter()
            .filter_map(|&(object, row_group, _)| Some((objects.get(object)?, row_group as u64)))
            .collect();
        old.push(shards.into_iter(), &group.excluded);
    }
    let mut new = Held {
        id_column: id_column.to_owned(),
        ..Held::default()
    };
    let mut ends: BTreeMap<End, u64> = BTreeMap::new();
    for (at, group) in groups.iter().enumerate() {
        let shards = group.shards.iter().map(|shard| (&shard.object, shard.row_group as u64));
        if let Some(end) = new.push(shards, excluded.get(at).map_or(&[], Vec::as_slice)) {
            ends.insert(end, group.index);
        }
    }
    let n_groups = groups.len() as u64;
    timely::execute::execute_directly(move |worker| {
        let rows = differences(worker, old.rows, new.rows);
        let objects = differences(worker, old.objects, new.objects);
        let in_groups = differences(worker, old.excluded, new.excluded);
        let ids = differences(worker, old.ids, new.ids);
        let touched: BTreeSet<u64> = rows
            .iter()
            .map(|((end, ..), _)| end)
            .chain(in_groups.iter().map(|((end, _), _)| end))
            .filter_map(|end| ends.get(end).copied())
            .collect();
        let side = |sign: isize| -> BTreeSet<&String> {
            let of_sign = objects.iter().filter(|(_, difference)| difference.signum() == sign);
            of_sign.map(|((path, _), _)| path).collect()
        };
        let (come, gone) = (side(1), side(-1));
        let owned = |paths: Vec<&&String>| paths.into_iter().map(|&path| path.clone()).collect();
        Changes {
            added: owned(come.difference(&gone).collect()),
            replaced: owned(come.intersection(&gone).collect()),
            retracted: owned(gone.difference(&come).collect()),
            excluded: ids.iter().filter(|(_, difference)| *difference > 0).count() as u64,
            no_longer_excluded: ids.iter().filter(|(_, difference)| *difference < 0).count() as u64,
            touched: touched.into_iter().collect(),
            computed: None,
            groups: n_groups,
        }
    })
}

/// What does not cancel between what was, at -1, and what is, at +1.
fn differences<D>(
    worker: &mut Worker,
    was: impl IntoIterator<Item = D>,
    is: impl IntoIterator<Item = D>,
) -> Vec<(D, isize)>
where
    D: differential_dataflow::ExchangeData + Hash,
{
    let (into, found) = mpsc::channel();
    let probe = ProbeHandle::new();
    let mut input: InputSession<u64, D, isize> = InputSession::new();
    worker.dataflow::<u64, _, _>(|scope| {
        input
            .to_collection(scope)
            .consolidate()
            .inspect(move |(item, _, difference)| {
                // The other end is held below, beyond the last step.
                let _ = into.send((item.clone(), *difference));
            })
            .inner
            .probe_with(&probe);
    });
    was.into_iter().for_each(|item| input.update(item, -1));
    is.into_iter().for_each(|item| input.update(item, 1));
    input.close();
    while !probe.done() {
        worker.step();
    }
    found.try_iter().collect()
}

#[cfg(test)]
mod tests {
    use fisherflow_spectra::{CatalogueColumns, Shard, plan_groups};
    use fisherflow_store::CatalogueFacts;

    use super::*;

    /// Name and type of the column of identifiers.
    const ID: &str = "id int64";

    /// Objects by number: version and rows.
    type Objects = BTreeMap<u32, (u64, u64)>;

    fn planned(objects: &Objects) -> Vec<Group> {
        let shard = |(name, &(version, rows)): (&u32, &(u64, u64))| Shard {
            object: ObjectVersion {
                path: format!("/survey/{name:04}.parquet"),
                size: 100,
                etag: Some(version.to_string()),
            },
            row_group: 0,
            n_rows: rows,
            first_row: 0,
        };
        plan_groups(objects.iter().map(shard), 200, "/survey")
    }

    /// The ids `"<object>"` of a group that are left out.
    fn left_out(groups: &[Group], ids: &[u32]) -> Vec<Vec<String>> {
        let is_in = |group: &Group, id: &&u32| {
            group
                .shards
                .iter()
                .any(|s| s.object.path.ends_with(&format!("{id:04}.parquet")))
        };
        let of = |group: &Group| ids.iter().filter(|id| is_in(group, id)).map(u32::to_string).collect();
        groups.iter().map(of).collect()
    }

    fn released(groups: &[Group], excluded: &[Vec<String>]) -> Commit {
        let (objects, committed) = Commit::of_groups(groups, |group| {
            (excluded[group.index as usize].clone(), BTreeMap::new())
        });
        Commit {
            version: Commit::VERSION,
            release: 1,
            parent: None,
            run_id: String::new(),
            created: String::new(),
            fisherflow: String::new(),
            manifest_sha256: String::new(),
            basis_sha256: String::new(),
            exclude_sha256: None,
            spectra: 0,
            catalogue: CatalogueFacts {
                columns: CatalogueColumns::new("id", "flux"),
                n_pixels: 3,
                types: vec!["int64".to_owned()],
            },
            changes: Changes::default(),
            objects,
            row_group_bytes: Vec::new(),
            groups: committed,
        }
    }

    fn many() -> Objects {
        (0..400)
            .map(|name| (2 * name, (1, 30 + u64::from(name) % 20)))
            .collect()
    }

    #[test]
    fn the_first_release_adds_everything() {
        let groups = planned(&many());
        let found = changes(None, &groups, &left_out(&groups, &[]), ID);
        assert_eq!(
            (found.added.len(), found.replaced.len(), found.retracted.len()),
            (400, 0, 0)
        );
        assert_eq!(found.touched.len(), groups.len());
    }

    #[test]
    fn nothing_changes_where_nothing_does() {
        let groups = planned(&many());
        let excluded = left_out(&groups, &[4, 6]);
        let found = changes(Some(&released(&groups, &excluded)), &groups, &excluded, ID);
        let none = Changes {
            groups: groups.len() as u64,
            ..Changes::default()
        };
        assert_eq!(found, none);
    }

    #[test]
    fn the_same_words_of_another_column_are_other_spectra() {
        let groups = planned(&many());
        let excluded = left_out(&groups, &[4, 600]);
        let found = changes(Some(&released(&groups, &excluded)), &groups, &excluded, "name utf8");
        assert_eq!(
            (found.excluded, found.no_longer_excluded, found.touched.len()),
            (2, 2, 2)
        );
    }

    #[test]
    fn what_is_touched_is_what_has_another_name() {
        let before = planned(&many());
        let excluded_before = left_out(&before, &[10, 12]);
        let mut objects = many();
        for added in [1, 33, 77, 131, 501] {
            objects.insert(added, (1, 25));
        }
        for replaced in [20, 150] {
            objects.insert(replaced, (2, 44));
        }
        for retracted in [60, 90, 200] {
            objects.remove(&retracted);
        }
        let after = planned(&objects);
        let excluded_after = left_out(&after, &[12, 14, 180]);
        let found = changes(Some(&released(&before, &excluded_before)), &after, &excluded_after, ID);
        assert_eq!(
            (found.added.len(), found.replaced.len(), found.retracted.len()),
            (5, 2, 3)
        );
        assert_eq!(found.added[0], "/survey/0001.parquet");
        assert_eq!((found.excluded, found.no_longer_excluded), (2, 1));
        let name = |(group, excluded): (&Group, &Vec<String>)| (group.membership(), excluded.clone());
        let old: BTreeSet<_> = before.iter().zip(&excluded_before).map(name).collect();
        let others: Vec<u64> = after
            .iter()
            .zip(&excluded_after)
            .filter(|&of_group| !old.contains(&name(of_group)))
            .map(|(group, _)| group.index)
            .collect();
        assert_eq!(found.touched, others);
        assert!(found.touched.len() < after.len() / 2, "{found}");
    }
}
