//! The prior precision as a manifest has it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One prior precision, or one a block.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum PriorPrecision {
    /// Of every block.
    One(f64),
    /// By the block's layers, `a+b`.
    ByBlock(BTreeMap<String, f64>),
}

impl PriorPrecision {
    /// The one that was found: of all blocks but those whose layers the run file gives theirs; `None` where there is none, or several.
    #[must_use]
    pub fn found(&self, given: &BTreeMap<String, f64>) -> Option<f64> {
        let by_block = match self {
            Self::One(precision) => return Some(*precision),
            Self::ByBlock(by_block) => by_block,
        };
        let is_given = |block: &str| block.split('+').any(|layer| given.contains_key(layer));
        let mut found = by_block.iter().filter(|(block, _)| !is_given(block));
        let (_, first) = found.next()?;
        found.all(|(_, other)| other == first).then_some(*first)
    }
}
