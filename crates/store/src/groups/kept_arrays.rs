//! The arrays that each worker of this process committed last, still in memory: whoever adds them up next need not read them back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{GroupArray, StoredSlice};

/// By worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeptArrays(Arc<Mutex<BTreeMap<u64, Kept>>>);

#[derive(Debug)]
struct Kept {
    /// The object that holds them.
    uri: String,
    arrays: Arc<Vec<GroupArray>>,
}

impl KeptArrays {
    /// Keeps the arrays of an object in place of those that the worker committed before.
    pub fn keep(&self, worker: u64, uri: String, arrays: Arc<Vec<GroupArray>>) {
        self.by_worker().insert(worker, Kept { uri, arrays });
    }

    /// Keeps none any longer.
    pub fn release(&self) {
        self.by_worker().clear();
    }

    /// A slice of an object; `None` where its arrays are not kept.
    pub fn slice(&self, uri: &str, slice: &StoredSlice) -> Option<Vec<f64>> {
        let arrays = {
            let kept = self.by_worker();
            Arc::clone(&kept.values().find(|kept| kept.uri == uri)?.arrays)
        };
        let mut start = slice.start;
        for array in arrays.iter() {
            let len = array.values.len() as u64;
            if start < len {
                let first = start as usize;
                return Some(array.values.get(first..first + slice.len)?.to_vec());
            }
            start -= len;
        }
        None
    }

    fn by_worker(&self) -> MutexGuard<'_, BTreeMap<u64, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
