//! What a finished group left: its arrays slice by slice, and the document that says so.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::objects::location::Location;
use crate::{StoreError, Stores, WrittenFile};

/// Numbers that are hashed together: 4 MiB.
pub(crate) const PIECE: usize = 1 << 19;

/// Numbers of a slice, which is read by one request: 16 MiB. A store charges for each request, and one takes longer to begin than a piece takes to come.
pub const SLICE: usize = 4 * PIECE;

/// An array of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupArray {
    /// Which of the group's arrays.
    pub key: u64,
    /// Whether it is added up over the groups, or only kept.
    pub purpose: Purpose,
    /// Number of spectra that it is of.
    pub n_spectra: u64,
    /// The numbers.
    pub values: Vec<f64>,
}

/// What an array of a group is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The groups' arrays of one key are added up, element by element, in group order.
    Sum,
    /// It is read back for this group alone.
    Keep,
}

/// What a finished group left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The object of its arrays, relative to the pass's folder; none where it has no numbers.
    pub object: Option<String>,
    /// The arrays in it, one after another.
    pub arrays: Vec<StoredArray>,
    /// Files that the group left elsewhere, relative to the output.
    pub files: Vec<WrittenFile>,
    /// Whatever else it gave.
    pub found: Value,
}

/// An array as its group's record describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredArray {
    /// Which of the group's arrays.
    pub key: u64,
    /// Whether it is added up.
    pub purpose: Purpose,
    /// Number of spectra that it is of.
    pub n_spectra: u64,
    /// Numbers in it.
    pub len: usize,
    /// Of each piece of 4 MiB.
    pub sha256: Vec<String>,
}

/// A slice of an array in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSlice {
    /// The object, relative to the pass's folder.
    pub object: String,
    /// Its first number in the object.
    pub start: u64,
    /// Numbers.
    pub len: usize,
    /// Of each piece of its bytes.
    pub sha256: Vec<String>,
}

impl GroupRecord {
    /// Bytes of its arrays.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.arrays.iter().map(|array| 8 * array.len as u64).sum()
    }

    /// The slices of an array, in order; none where the group has no such array.
    #[must_use]
    pub fn slices(&self, key: u64) -> Option<Vec<StoredSlice>> {
        let object = self.object.clone().unwrap_or_default();
        let mut start = 0;
        for array in &self.arrays {
            if array.key == key {
                let pieces = array.sha256.chunks(SLICE / PIECE);
                let slice = |(first, pieces): (usize, &[String])| StoredSlice {
                    object: object.clone(),
                    start: start + first as u64,
                    len: SLICE.min(array.len - first),
                    sha256: pieces.to_vec(),
                };
                return Some((0..array.len).step_by(SLICE).zip(pieces).map(slice).collect());
            }
            start += array.len as u64;
        }
        None
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not there, or cannot be read or understood.
    pub(crate) async fn read(stores: &Stores, location: &Location) -> Result<Self, StoreError> {
        stores.parse_document(&location.uri(), &stores.read_at(location).await?)
    }
}
