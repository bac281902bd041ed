//! Bytes that may be in flight.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A permit stands for this many bytes.
const PERMIT: usize = 1 << 10;

/// A bound on bytes in flight.
#[derive(Clone)]
pub(crate) struct ByteBudget {
    semaphore: Arc<Semaphore>,
    permits: usize,
}

impl ByteBudget {
    pub fn new(bytes: usize) -> Self {
        let permits = (bytes / PERMIT).clamp(1, u32::MAX as usize / 2);
        Self {
            semaphore: Arc::new(Semaphore::new(permits)),
            permits,
        }
    }

    /// Waits for room; what is larger than the whole budget waits for all of it.
    pub async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = (bytes / PERMIT).clamp(1, self.permits) as u32;
        Arc::clone(&self.semaphore).acquire_many_owned(permits).await.ok()
    }
}
