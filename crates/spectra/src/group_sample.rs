//! Which groups stand for a catalogue where not all of its spectra are looked at: chosen by hash, so that no layout of its files decides.
//!
//! Every n-th group would not do: large objects are cut alike, and where n is a multiple of the groups of one, the sample would be of one stretch
//! of every object, whose rows may be sorted by magnitude or by time.

use crate::Group;
use crate::key_hash::hash64;

/// `n` of a catalogue's groups, in their order: those whose last shard has the least hash. `folder` is what the objects' names start from: the
/// sample is the same wherever the catalogue lies.
#[must_use]
pub fn sample_groups(groups: &[Group], n: usize, folder: &str) -> Vec<Group> {
    let hash = |group: &Group| {
        let last = group.shards.last();
        let name = last.map(|shard| format!("{} {}", shard.object.name_below(folder), shard.row_group));
        hash64(&name.unwrap_or_default())
    };
    let mut chosen: Vec<&Group> = groups.iter().collect();
    chosen.sort_by_cached_key(|group| (hash(group), group.index));
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
        let sample = sample_groups(&all, 34, "/survey");
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
        let [small, large] = [20, 60].map(|n| indices(&sample_groups(&all, n, "/survey")));
        assert!(small.iter().all(|index| large.contains(index)));
        assert_eq!(sample_groups(&all, all.len(), "/survey"), all);
        assert_eq!(sample_groups(&all, all.len() + 1, "/survey"), all);
        let moved = groups("s3://bucket/dr17");
        assert_eq!(indices(&sample_groups(&moved, 20, "s3://bucket/dr17")), small);
    }
}
