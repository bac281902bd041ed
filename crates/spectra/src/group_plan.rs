//! How shards are put into reduction groups: so that an object that is added, replaced or taken away changes its neighbours' groups alone.
//!
//! Where a group ends depends on one object, never on what stands before it in the catalogue:
//!
//! - an object of at least `group_rows` rows is cut after whole row groups, as soon as a piece of it has `group_rows` rows, and at its end;
//! - an object of fewer rows is never cut, and a group ends after it if `hash64(name) / 2^64 < rows / group_rows`, `hash64` the first 8 bytes
//!   of the SHA-256 of the object's name below the catalogue's folder. A group then has `group_rows` rows in the mean.
//!
//! A name added or taken away moves at most the one boundary after it: two groups become one, or one becomes two.

use crate::key_hash::hash64;
use crate::{Group, Shard};

/// The groups of `shards`, which are in the order of their objects' names. Shards without rows are left out.
///
/// `folder` is what the objects' names start from: the groups of a catalogue are the same wherever it lies.
#[must_use]
pub fn plan_groups(shards: impl IntoIterator<Item = Shard>, group_rows: u64, folder: &str) -> Vec<Group> {
    let group_rows = group_rows.max(1);
    let mut groups: Vec<Group> = Vec::new();
    let mut open: Vec<Shard> = Vec::new();
    let mut shards = shards.into_iter().filter(|shard| shard.n_rows > 0).peekable();
    while let Some(first) = shards.next() {
        let mut object = vec![first];
        while let Some(next) = shards.next_if(|next| next.object == object[0].object) {
            object.push(next);
        }
        let rows: u64 = object.iter().map(|shard| shard.n_rows).sum();
        let ends = rows >= group_rows || ends_after(name_below(folder, &object[0].object.path), rows, group_rows);
        let mut piece = 0;
        for shard in object {
            piece += shard.n_rows;
            open.push(shard);
            if piece >= group_rows {
                close(&mut open, &mut groups);
                piece = 0;
            }
        }
        if ends {
            close(&mut open, &mut groups);
        }
    }
    close(&mut open, &mut groups);
    groups
}

/// Whether a group ends after an object that is never cut.
fn ends_after(name: &str, rows: u64, group_rows: u64) -> bool {
    u128::from(hash64(name)) * u128::from(group_rows) < u128::from(rows) << 64
}

fn name_below<'p>(folder: &str, path: &'p str) -> &'p str {
    path.strip_prefix(folder)
        .map_or(path, |name| name.trim_start_matches('/'))
}

fn close(open: &mut Vec<Shard>, groups: &mut Vec<Group>) {
    if !open.is_empty() {
        let index = groups.len() as u64;
        let shards = std::mem::take(open);
        groups.push(Group { index, shards });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::ObjectVersion;

    /// An object of the given row groups.
    fn object(name: &str, row_groups: &[u64]) -> Vec<Shard> {
        let mut first_row = 0;
        let mut shards = Vec::new();
        for (row_group, &n_rows) in row_groups.iter().enumerate() {
            shards.push(Shard {
                object: ObjectVersion {
                    path: format!("/survey/{name}"),
                    size: 1,
                    etag: None,
                },
                row_group,
                n_rows,
                first_row,
            });
            first_row += n_rows;
        }
        shards
    }

    type Objects = BTreeMap<String, Vec<u64>>;

    fn groups(objects: &Objects, group_rows: u64) -> Vec<Group> {
        let shards = objects.iter().flat_map(|(name, rows)| object(name, rows));
        plan_groups(shards, group_rows, "/survey")
    }

    /// What the groups hold, whatever their index.
    fn contents(groups: &[Group]) -> BTreeSet<Vec<(String, usize)>> {
        let of = |group: &Group| {
            let shards = group.shards.iter();
            shards
                .map(|shard| (shard.object.path.clone(), shard.row_group))
                .collect()
        };
        groups.iter().map(of).collect()
    }

    fn many(n: usize) -> Objects {
        (0..n)
            .map(|i| (format!("night-{i:04}.parquet"), vec![40 + (i as u64 * 37) % 50]))
            .collect()
    }

    #[test]
    fn a_large_object_is_cut_after_whole_row_groups_and_at_its_end() {
        let objects = Objects::from([("a".to_owned(), vec![5, 5, 0, 5, 20, 3])]);
        let groups = groups(&objects, 10);
        assert_eq!(groups.iter().map(Group::n_rows).collect::<Vec<_>>(), [10, 25, 3]);
        assert_eq!(groups.iter().map(|g| g.index).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(groups.iter().flat_map(|g| &g.shards).all(|shard| shard.n_rows > 0));
    }

    #[test]
    fn what_stands_before_a_large_object_moves_none_of_its_cuts() {
        let large = vec![6, 6, 6, 6];
        let alone = groups(&Objects::from([("b".to_owned(), large.clone())]), 12);
        let after = groups(&Objects::from([("a".to_owned(), vec![3]), ("b".to_owned(), large)]), 12);
        let cuts = |groups: &[Group]| -> BTreeSet<usize> {
            let last = groups.iter().filter_map(|group| group.shards.last());
            last.filter(|shard| shard.object.path.ends_with('b'))
                .map(|shard| shard.row_group)
                .collect()
        };
        assert_eq!(cuts(&alone), BTreeSet::from([1, 3]));
        assert_eq!(cuts(&alone), cuts(&after));
    }

    #[test]
    fn nothing_makes_no_group() {
        assert!(groups(&Objects::from([("a".to_owned(), vec![0, 0])]), 10).is_empty());
        assert_eq!(groups(&Objects::from([("a".to_owned(), vec![1, 1])]), 0).len(), 2);
    }

    #[test]
    fn small_objects_make_groups_of_the_size_asked_for_in_the_mean() {
        let objects = many(4000);
        let rows: u64 = objects.values().flatten().sum();
        let groups = groups(&objects, 500);
        let mean = rows as f64 / groups.len() as f64;
        // Sizes are about exponential: the mean of 500 of them is good to 5 %.
        assert!((mean / 500.0 - 1.0).abs() < 0.2, "{mean}");
        assert_eq!(groups.iter().map(Group::n_rows).sum::<u64>(), rows);
    }

    #[test]
    fn one_object_more_or_less_changes_at_most_two_groups() {
        let objects = many(300);
        let before = contents(&groups(&objects, 400));
        for name in objects.keys() {
            let mut without = objects.clone();
            without.remove(name);
            let after = contents(&groups(&without, 400));
            assert!(before.difference(&after).count() <= 2, "{name}");
            assert!(after.difference(&before).count() <= 1, "{name}");
        }
    }

    #[test]
    fn a_replaced_object_moves_at_most_the_boundary_after_it() {
        let objects = many(300);
        let before = contents(&groups(&objects, 400));
        for name in objects.keys() {
            let mut replaced = objects.clone();
            replaced.insert(name.clone(), vec![90, 300, 40]);
            let after = contents(&groups(&replaced, 400));
            assert!(before.difference(&after).count() <= 2, "{name}");
        }
    }

    #[test]
    fn groups_are_the_same_wherever_the_catalogue_lies() {
        let here = groups(&many(50), 300);
        let moved = here.iter().flat_map(|group| group.shards.clone()).map(|mut shard| {
            shard.object.path = shard.object.path.replace("/survey/", "s3://bucket/dr17/");
            shard
        });
        let there = plan_groups(moved, 300, "s3://bucket/dr17");
        let sizes = |groups: &[Group]| groups.iter().map(Group::n_rows).collect::<Vec<_>>();
        assert_eq!(sizes(&here), sizes(&there));
        assert!(here.len() > 5);
    }
}
