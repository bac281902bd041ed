//! Memory in whole pages, straight from the system: the C library would put buffers of some sizes into the heap of the thread that asks.
//!
//! From [`HUGE`] bytes on they are huge pages where the system has some: one fault in place of 512 at the first touch, and products that do not
//! wait for addresses to be looked up.

pub(crate) use from::{give, resize, take};

/// Bytes of a huge page of x86-64, and of most others.
const HUGE: usize = 2 << 20;

#[cfg(target_os = "linux")]
mod from {
    use super::HUGE;

    /// What lengths are rounded up to: a page of any system.
    const PAGE: usize = 64 << 10;

    /// So many bytes of zeros; null where there are none left.
    pub fn take(bytes: usize) -> *mut u8 {
        let bytes = bytes.next_multiple_of(PAGE);
        if bytes < HUGE {
            return map(bytes);
        }
        let room = map(bytes + HUGE);
        if room.is_null() {
            return room;
        }
        let before = room.addr().next_multiple_of(HUGE) - room.addr();
        // SAFETY: what lies before the first huge page, and behind the last byte, is part of the room, and nobody has it yet. The advice changes
        // nothing that is there; a system without huge pages refuses it.
        unsafe {
            let pages = room.add(before);
            unmap(room, before);
            unmap(pages.add(bytes), HUGE - before);
            libc::madvise(pages.cast(), bytes, libc::MADV_HUGEPAGE);
            pages
        }
    }

    /// The same with room for `to` bytes instead of `from`, at another place where need be; those that both have are kept. Null where there are
    /// none left: the pages then stay as they are.
    ///
    /// # Safety
    /// What `take` or `resize` gave for so many bytes, and the caller's own.
    pub unsafe fn resize(pages: *mut u8, from: usize, to: usize) -> *mut u8 {
        let (from, to) = (from.next_multiple_of(PAGE), to.next_multiple_of(PAGE));
        // SAFETY: as the caller's.
        let moved = unsafe { libc::mremap(pages.cast(), from, to, libc::MREMAP_MAYMOVE) };
        if moved == libc::MAP_FAILED {
            return std::ptr::null_mut();
        }
        moved.cast()
    }

    /// Gives them back.
    ///
    /// # Safety
    /// What `take` or `resize` gave for so many bytes, and nobody uses it.
    pub unsafe fn give(pages: *mut u8, bytes: usize) {
        // SAFETY: as the caller's.
        unsafe { unmap(pages, bytes.next_multiple_of(PAGE)) };
    }

    fn map(bytes: usize) -> *mut u8 {
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

    /// # Safety
    /// Whole pages that nobody uses.
    unsafe fn unmap(pages: *mut u8, bytes: usize) {
        if bytes > 0 {
            // SAFETY: as the caller's. It can fail only for want of room in the system's own tables; then the pages stay.
            unsafe { libc::munmap(pages.cast(), bytes) };
        }
    }
}

/// Elsewhere from the C library.
#[cfg(not(target_os = "linux"))]
mod from {
    use std::alloc::{GlobalAlloc, Layout, System};

    const fn layout(bytes: usize) -> Layout {
        // SAFETY: the alignment is a power of two, and whoever asks for so many bytes had a layout of them.
        unsafe { Layout::from_size_align_unchecked(bytes, crate::allocator::ALIGNMENT) }
    }

    /// So many bytes of zeros; null where there are none left.
    pub fn take(bytes: usize) -> *mut u8 {
        // SAFETY: nobody asks for none.
        unsafe { System.alloc_zeroed(layout(bytes)) }
    }

    /// The same with room for `to` bytes instead of `from`, at another place where need be; those that both have are kept. Null where there are
    /// none left: the pages then stay as they are.
    ///
    /// # Safety
    /// What `take` or `resize` gave for so many bytes, and the caller's own.
    pub unsafe fn resize(pages: *mut u8, from: usize, to: usize) -> *mut u8 {
        // SAFETY: as the caller's.
        unsafe { System.realloc(pages, layout(from), to) }
    }

    /// Gives them back.
    ///
    /// # Safety
    /// What `take` or `resize` gave for so many bytes, and nobody uses it.
    pub unsafe fn give(pages: *mut u8, bytes: usize) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pages, layout(bytes)) }
    }
}
