//! Room for packed operands: aligned to cache lines, and kept by each thread, since the first touch of new memory costs as much as a
//! small product.

use std::cell::RefCell;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Elements beyond which a buffer is given back after use rather than kept.
const KEPT: usize = 16 << 20;

/// A buffer whose values begin at a cache line.
#[derive(Debug, Default)]
pub(crate) struct Buffer<T> {
    values: Vec<T>,
    offset: usize,
    len: usize,
}

impl<T: Copy> Buffer<T> {
    /// `len` values, of whatever was there before or `zero`.
    pub fn resize(&mut self, len: usize, zero: T) {
        let room = len + LINE / size_of::<T>();
        if self.values.len() < room {
            self.values = Vec::new();
            self.values.resize(room, zero);
        }
        let offset = self.values.as_ptr().align_offset(LINE);
        self.offset = offset.min(self.values.len() - len);
        self.len = len;
    }

    pub fn as_slice(&self) -> &[T] {
        &self.values[self.offset..][..self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.values[self.offset..][..self.len]
    }
}

/// The two buffers that a product packs its operands into.
#[derive(Debug, Default)]
pub(crate) struct Workspace<T> {
    pub lhs: Buffer<T>,
    pub rhs: Buffer<T>,
}

/// A thread's own workspace of one element type.
pub(crate) type Kept<T> = RefCell<Workspace<T>>;

/// Runs `work` with this thread's workspace. Work that waits for others may run another product on this thread meanwhile: that one finds a
/// new workspace.
pub(crate) fn with_workspace<T: Copy + Default, R>(kept: &Kept<T>, work: impl FnOnce(&mut Workspace<T>) -> R) -> R {
    let mut workspace = kept.take();
    let result = work(&mut workspace);
    if workspace.lhs.values.len() + workspace.rhs.values.len() <= KEPT {
        kept.replace(workspace);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_at_a_line_and_are_kept() {
        let kept: Kept<f32> = Kept::default();
        for len in [0, 1, 1000, 10] {
            let address = with_workspace(&kept, |workspace| {
                workspace.lhs.resize(len, 0.0);
                workspace.rhs.resize(3, 0.0);
                assert_eq!(workspace.lhs.as_mut_slice().len(), len);
                workspace.lhs.as_slice().as_ptr().addr()
            });
            assert_eq!(address % LINE, 0);
        }
        assert!(kept.borrow().lhs.values.len() >= 1000);
    }
}
