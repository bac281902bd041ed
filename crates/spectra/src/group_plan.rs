//! How shards are put into reduction groups: so that an object that is added, replaced or taken away changes its neighbours' groups alone, and
//! no group is many times another.
//!
//! Where a group ends is decided by what lies within `group_rows / 2` rows of there, never by the rest of the catalogue:
//!
//! - an object of at least `group_rows` rows is cut after whole row groups, as soon as a piece of it has `group_rows` rows, and at its
//!   end;
//! - an object of fewer rows is never cut. A group ends after it if its hash is the least among the objects whose ends are less than
//!   `group_rows / 2` rows from its own: `hash64`, the first 8 bytes of the SHA-256 of the object's name below the catalogue's folder. No group ends so
//!   near to the end of a large object before it, or to either end of the catalogue.
//!
//! Groups of small objects then have `group_rows` rows in the mean, half as many at least, and seldom twice as many (chunks between local extrema of a
//! hash: Bjorner, Blass and Gurevich, J. Comput. Syst. Sci. 76 (2010) 154).

use crate::key_hash::hash64;
use crate::{Group, Shard};

/// The groups of `shards`, which are in the order of their objects' names. Shards without rows are left out.
///
/// `folder` is what the objects' names start from: the groups of a catalogue are the same wherever it lies.
#[must_use]
pub fn plan_groups(shards: impl IntoIterator<Item = Shard>, group_rows: u64, folder: &str) -> Vec<Group> {
    let group_rows = group_rows.max(1);
    let half = group_rows.div_ceil(2);
    let shards: Vec<Shard> = shards.into_iter().filter(|shard| shard.n_rows > 0).collect();
    let objects: Vec<&[Shard]> = shards.chunk_by(|one, next| one.object == next.object).collect();
    let is_large = |object: &[Shard]| n_rows(object) >= group_rows;
    let mut groups: Vec<Group> = Vec::new();
    let mut open: Vec<Shard> = Vec::new();
    let mut runs = objects
        .chunk_by(|one, next| !is_large(one) && !is_large(next))
        .peekable();
    while let Some(run) = runs.next() {
        if let [large] = run
            && is_large(large)
        {
            let mut piece = 0;
            for shard in *large {
                open.push(shard.clone());
                piece += shard.n_rows;
                if piece >= group_rows {
                    close(&mut open, &mut groups);
                    piece = 0;
                }
            }
            close(&mut open, &mut groups);
            continue;
        }
        let ends = ends_after(run, half, folder, runs.peek().is_none());
        for (object, ends) in run.iter().zip(ends) {
            open.extend_from_slice(object);
            if ends {
                close(&mut open, &mut groups);
            }
        }
    }
    close(&mut open, &mut groups);
    groups
}

/// After which objects of a run of small ones a group ends; `last`: whether the catalogue ends with the run.
fn ends_after(run: &[&[Shard]], half: u64, folder: &str, last: bool) -> Vec<bool> {
    let mut rows = 0;
    let ends: Vec<(u64, u64)> = run
        .iter()
        .map(|object| {
            rows += n_rows(object);
            (rows, hash64(object[0].object.name_below(folder)))
        })
        .collect();
    (0..)
        .zip(&ends)
        .map(|(at, &(end, hash))| {
            let mut before = ends[..at].iter().rev().take_while(|other| end - other.0 < half);
            let mut after = ends[at + 1..].iter().take_while(|other| other.0 - end < half);
            end >= half
                && (!last || rows - end >= half)
                && before.all(|other| hash < other.1)
                && after.all(|other| hash <= other.1)
        })
        .collect()
}

fn n_rows(object: &[Shard]) -> u64 {
    object.iter().map(|shard| shard.n_rows).sum()
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

    /// Of 4,000 objects.
    #[test]
    fn groups_of_small_objects_are_alike() {
        let objects = many(4000);
        let rows: u64 = objects.values().flatten().sum();
        let groups = groups(&objects, 1000);
        let sizes: Vec<u64> = groups.iter().map(Group::n_rows).collect();
        let mean = rows as f64 / sizes.len() as f64;
        assert_eq!(sizes.iter().sum::<u64>(), rows);
        assert!((mean / 1000.0 - 1.0).abs() < 0.1, "{mean}");
        assert!(sizes.iter().all(|&size| (500..3000).contains(&size)), "{sizes:?}");
        let long = sizes.iter().filter(|&&size| size > 2000).count();
        assert!(long * 20 < sizes.len(), "{long} of {}", sizes.len());
    }

    /// What `change` makes of the groups: those that were there before only, and those that are there after only.
    fn changed(objects: &Objects, change: impl Fn(&mut Objects, &str)) -> Vec<(usize, usize)> {
        let before = contents(&groups(objects, 400));
        let names = objects.keys().map(|name| {
            let mut other = objects.clone();
            change(&mut other, name);
            let after = contents(&groups(&other, 400));
            (before.difference(&after).count(), after.difference(&before).count())
        });
        names.collect()
    }

    fn in_the_mean(changed: &[(usize, usize)]) -> f64 {
        changed.iter().map(|(_, new)| *new as f64).sum::<f64>() / changed.len() as f64
    }

    /// Ends within half a group of a change on either side are at least half a group apart: two of them at most, between three groups.
    #[test]
    fn one_object_more_or_less_changes_its_neighbours_groups() {
        let objects = many(300);
        let without = changed(&objects, |objects, name| {
            objects.remove(name);
        });
        assert!(without.iter().all(|&(old, new)| old <= 3 && new <= 3), "{without:?}");
        assert!(in_the_mean(&without) < 1.5, "{}", in_the_mean(&without));
    }

    #[test]
    fn a_replaced_object_changes_its_neighbours_groups() {
        let objects = many(300);
        for rows in [vec![45], vec![90, 300, 40]] {
            let replaced = changed(&objects, |objects, name| {
                objects.insert(name.to_owned(), rows.clone());
            });
            assert!(replaced.iter().all(|&(old, new)| old <= 3 && new <= 4), "{replaced:?}");
        }
    }

    #[test]
    fn a_night_more_at_the_end_changes_the_last_groups() {
        let (mut objects, mut new) = (many(300), 0);
        for night in 300..400 {
            let before = contents(&groups(&objects, 400));
            objects.insert(format!("night-{night:04}.parquet"), vec![60]);
            new += contents(&groups(&objects, 400)).difference(&before).count();
        }
        assert!(new <= 150, "{new} groups in 100 nights");
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
