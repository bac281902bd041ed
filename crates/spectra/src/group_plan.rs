//! How shards are put into reduction groups.

use crate::{Group, Shard};

/// Puts consecutive shards together until a group holds at least `group_rows` spectra; the last group holds what is left.
///
/// The groups depend on the shards and on `group_rows` alone, never on how many workers there are. Shards without rows are left out.
#[must_use]
pub fn plan_groups(shards: impl IntoIterator<Item = Shard>, group_rows: u64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut open: Vec<Shard> = Vec::new();
    let mut rows = 0;
    let close = |shards: Vec<Shard>, groups: &mut Vec<Group>| {
        let index = groups.len() as u64;
        groups.push(Group { index, shards });
    };
    for shard in shards.into_iter().filter(|shard| shard.n_rows > 0) {
        rows += shard.n_rows;
        open.push(shard);
        if rows >= group_rows.max(1) {
            close(std::mem::take(&mut open), &mut groups);
            rows = 0;
        }
    }
    if !open.is_empty() {
        close(open, &mut groups);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectVersion;

    fn shards(rows: &[u64]) -> Vec<Shard> {
        let mut first_row = 0;
        rows.iter()
            .enumerate()
            .map(|(row_group, &n_rows)| {
                let shard = Shard {
                    object: ObjectVersion {
                        path: "/a.parquet".into(),
                        size: 1,
                        etag: None,
                    },
                    row_group,
                    n_rows,
                    first_row,
                };
                first_row += n_rows;
                shard
            })
            .collect()
    }

    #[test]
    fn groups_hold_at_least_what_was_asked() {
        let groups = plan_groups(shards(&[5, 5, 0, 5, 20, 3]), 10);
        let sizes: Vec<u64> = groups.iter().map(Group::n_rows).collect();
        assert_eq!(sizes, [10, 25, 3]);
        assert_eq!(groups.iter().map(|g| g.index).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(groups.iter().flat_map(|g| &g.shards).all(|shard| shard.n_rows > 0));
    }

    #[test]
    fn nothing_makes_no_group() {
        assert!(plan_groups(shards(&[0, 0]), 10).is_empty());
        assert_eq!(plan_groups(shards(&[1, 1]), 0).len(), 2);
    }
}
