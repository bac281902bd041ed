//! Memory in whole pages, straight from the system: the C library would put buffers of some sizes into the heap of the thread that asks.

pub(crate) use from::{give, take};

#[cfg(target_os = "linux")]
mod from {
    /// So many bytes of zeros; null where there are none left.
    pub fn take(bytes: usize) -> *mut u8 {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: anonymous memory at a place that the system chooses.
        let pages = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
        if pages == libc::MAP_FAILED {
            return std::ptr::null_mut();
        }
        pages.cast()
    }

    /// Gives them back.
    ///
    /// # Safety
    /// What `take` gave for so many bytes, and nobody uses it.
    pub unsafe fn give(pages: *mut u8, bytes: usize) {
        // SAFETY: as the caller's. It can fail only for want of room in the system's own tables; then the pages stay.
        unsafe { libc::munmap(pages.cast(), bytes) };
    }
}

/// Elsewhere from the C library.
#[cfg(not(target_os = "linux"))]
mod from {
    use std::alloc::{GlobalAlloc, Layout, System};

    const fn layout(bytes: usize) -> Layout {
        // SAFETY: the alignment is a power of two, and no class is anywhere near `isize::MAX`.
        unsafe { Layout::from_size_align_unchecked(bytes, crate::allocator::ALIGNMENT) }
    }

    /// So many bytes of zeros; null where there are none left.
    pub fn take(bytes: usize) -> *mut u8 {
        // SAFETY: no class is empty.
        unsafe { System.alloc_zeroed(layout(bytes)) }
    }

    /// Gives them back.
    ///
    /// # Safety
    /// What `take` gave for so many bytes, and nobody uses it.
    pub unsafe fn give(pages: *mut u8, bytes: usize) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pages, layout(bytes)) }
    }
}
