//! A pool of buffers for payload. Fresh memory costs more in page faults (1.27 CPU s/GiB) than
//! its hash does (0.60), so buffers are used again; and their number is the bound on memory.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bounded number of buffers of one length. Cheap to clone.
#[derive(Clone)]
pub struct BufferPool {
    slots: Arc<Semaphore>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    len: usize,
}

impl BufferPool {
    /// A pool of up to `count` buffers of `len` bytes, made as they are needed.
    pub fn new(count: usize, len: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(count)), free: Arc::default(), len }
    }

    /// A buffer; waits while all are in use. What is in it is of no meaning.
    pub async fn take(&self) -> Buffer {
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.expect("the pool's semaphore is never closed");
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let data = free.unwrap_or_else(|| vec![0; self.len]);
        Buffer { data, free: self.free.clone(), _slot: slot }
    }
}

impl Buffer {
    /// Exchanges the content with memory of the same length.
    pub fn swap(&mut self, other: &mut Vec<u8>) {
        assert_eq!(self.data.len(), other.len(), "all buffers of a pool have one length");
        std::mem::swap(&mut self.data, other);
    }
}

/// A buffer, which goes back to its pool when it is dropped.
pub struct Buffer {
    data: Vec<u8>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    _slot: OwnedSemaphorePermit,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(data);
    }
}
