//! Memory in whole pages, straight from the system: the C library would put buffers of some sizes into the heap of the thread that asks.

pub(crate) use from::{give, take};

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod from {
    use std::ffi::{c_int, c_void};

    const READ_AND_WRITE: c_int = 1 | 2;
    /// The program's own, of no file.
    const PRIVATE_ANONYMOUS: c_int = 0x02 | 0x20;
    const FAILED: usize = usize::MAX;

    unsafe extern "C" {
        fn mmap(at: *mut c_void, bytes: usize, access: c_int, kind: c_int, file: c_int, offset: i64) -> *mut c_void;
        fn munmap(at: *mut c_void, bytes: usize) -> c_int;
    }

    /// So many bytes of zeros; null where there are none left.
    pub fn take(bytes: usize) -> *mut u8 {
        // SAFETY: anonymous memory at a place that the system chooses.
        let pages = unsafe { mmap(std::ptr::null_mut(), bytes, READ_AND_WRITE, PRIVATE_ANONYMOUS, -1, 0) };
        if pages.addr() == FAILED {
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
        unsafe { munmap(pages.cast(), bytes) };
    }
}

/// Elsewhere from the C library.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
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
