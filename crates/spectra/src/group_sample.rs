//! Which groups stand for a catalogue where not all of its spectra are looked at: chosen by hash, so that no layout of its files decides.
//!
//! Every n-th group would not do: large objects are cut alike, and where n is a multiple of the groups of one, the sample would be of one stretch
//! of every object, whose rows may be sorted by magnitude or by time.
//!
//! Every group has the same turn, whatever its size, so every row has about the same chance, and a mean over the sample's rows is one over all rows,
//! as long as no group is larger than the sample.

use crate::Group;
use crate::key_hash::hash64;

/// As many of a catalogue's groups as have `n_rows` rows, or all, in their order: drawn by the hash of their last shards. `folder` is what the
/// objects' names start from: the sample is the same wherever the catalogue lies.
#[must_use]
pub fn sample_groups(groups: &[Group], n_rows: u64, folder: &str) -> Vec<Group> {
    let turn = |group: &Group| {
        let last = group.shards.last();
        let name = last.map(|shard| format!("{} {}", shard.object.name_below(folder), shard.row_group));
        hash64(&name.unwrap_or_default())
    };
    let mut chosen: Vec<&Group> = groups.iter().collect();
    chosen.sort_by_cached_key(|group| (turn(group), group.index));
    let mut rows = 0;
    let taken = chosen.iter().take_while(|group| {
        let is_wanted = rows < n_rows;
        rows += group.n_rows();
        is_wanted
    });
    let n = taken.count();
    chosen.truncate(n);
    chosen.sort_by_key(|group| group.index);
    chosen.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ObjectVersion, Shard, plan_groups};

    /// 200 objects of 25 row groups, each cut into 5 groups.
    fn groups(folder: &str) -> Vec<Group> {
        let shards = (0..200).flat_map(|object| {
            (0..25).map(move |row_group| Shard {
                object: ObjectVersion {
                    path: format!("{folder}/night-{object:04}.parquet"),
                    size: 1,
                    etag: None,
                },
                row_group,
                n_rows: 1000,
                first_row: 1000 * row_group as u64,
            })
        });
        plan_groups(shards, 5000, folder)
    }

    fn indices(groups: &[Group]) -> Vec<u64> {
        groups.iter().map(|group| group.index).collect()
    }

    #[test]
    fn a_sample_is_of_all_stretches_of_objects_that_are_cut_alike() {
        let all = groups("/survey");
        assert_eq!(all.len(), 1000);
        let sample = sample_groups(&all, 34 * 5000, "/survey");
        assert_eq!(sample.len(), 34);
        assert!(sample.is_sorted_by_key(|group| group.index));
        let mut by_stretch = [0; 5];
        for group in &sample {
            by_stretch[group.shards[0].row_group / 5] += 1;
        }
        assert!(by_stretch.iter().all(|&groups| groups > 1), "{by_stretch:?}");
        let halves = sample.iter().filter(|group| group.index < 500).count();
        assert!((9..=25).contains(&halves), "{halves} in the first half");
    }

    #[test]
    fn a_larger_sample_has_the_smaller_one_and_at_the_end_all() {
        let all = groups("/survey");
        let [small, large] = [20, 60].map(|n| indices(&sample_groups(&all, n * 5000, "/survey")));
        assert!(small.iter().all(|index| large.contains(index)));
        assert_eq!(sample_groups(&all, 5_000_000, "/survey"), all);
        assert_eq!(sample_groups(&all, 5_000_001, "/survey"), all);
        let moved = groups("s3://bucket/dr17");
        assert_eq!(indices(&sample_groups(&moved, 20 * 5000, "s3://bucket/dr17")), small);
    }

    /// 5 groups of 50,000 rows hold two thirds of all, 125 of 1,000 the rest.
    #[test]
    fn every_row_has_the_same_chance_whatever_its_group_s_size() {
        let group = |index: u64, path: String, n_rows: u64| Group {
            index,
            shards: vec![Shard {
                object: ObjectVersion {
                    path,
                    size: 1,
                    etag: None,
                },
                row_group: 0,
                n_rows,
                first_row: 0,
            }],
        };
        let mut taken = [0_u32; 2];
        for names in 0..300 {
            let large = (0..5).map(|i| (i, format!("/survey/{names}/large-{i:03}.parquet"), 50_000));
            let small = (0..125).map(|i| (5 + i, format!("/survey/{names}/small-{i:03}.parquet"), 1000));
            let all: Vec<Group> = large.chain(small).map(|(at, path, n)| group(at, path, n)).collect();
            let sample = sample_groups(&all, 20_000, "/survey");
            let rows: u64 = sample.iter().map(Group::n_rows).sum();
            assert!((20_000..20_000 + 50_000).contains(&rows), "{rows} of {names}");
            for group in &sample {
                taken[usize::from(group.n_rows() == 1000)] += 1;
            }
        }
        let [large, small] = [f64::from(taken[0]) / 1500.0, f64::from(taken[1]) / 37_500.0];
        assert!(
            (large / small - 1.0).abs() < 0.25,
            "a row's chance: {large} and {small}"
        );
    }
}
