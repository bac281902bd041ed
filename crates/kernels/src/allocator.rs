//! Large buffers are kept for whoever asks next: an allocator for programs that compute with these kernels.
//!
//! Batches, captures and products take and give back the same few sizes over and over, often on another thread. From the C library that is new
//! memory each time, whose first touch costs more than most of what is done in it; or, once it has learnt of large sizes, heaps that one thread
//! fills and another frees, full of holes. So a freed buffer goes to a list of its size class, common to all threads, and from there to the next
//! who asks. What is kept so never takes the program beyond what it has already needed at one time, or little; the rest goes back to the system in
//! whole pages.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pages;

/// Bytes from which on a buffer is kept.
const LEAST: usize = 1 << LEAST_LOG;
const LEAST_LOG: u32 = 16;
/// Bytes beyond which it is not, but comes from the system and goes back to it.
const MOST: usize = 1 << 26;
/// Bytes that are kept beyond what the program has needed at one time: an eighth of that, between these two. With none to spare, sizes that take
/// turns push one another out.
const LITTLE: usize = 32 << 20;
const MUCH: usize = 128 << 20;
/// Size classes from one power of two to the next: a buffer is at most an eighth larger than what was asked for.
const STEPS: usize = 8;
const CLASSES: usize = (MOST.ilog2() - LEAST_LOG) as usize * STEPS + 1;
/// Alignment of every kept buffer, and the largest that may be asked for: two cache lines, as Arrow has it.
pub(crate) const ALIGNMENT: usize = 128;

/// The system's allocator, with lists of large buffers that wait to be used again: `#[global_allocator]` of a program.
///
/// ```
/// use fisherflow_kernels::Buffers;
///
/// #[global_allocator]
/// static BUFFERS: Buffers = Buffers::new();
/// ```
pub struct Buffers(Mutex<Kept>);

/// A buffer that waits; it lies in the buffer's own first bytes.
struct Waiting {
    next: *mut Waiting,
}

/// The buffers that wait.
struct Kept {
    /// The last one freed of each size class.
    last: [*mut Waiting; CLASSES],
    bytes: usize,
    /// Bytes of the buffers that are in use, those too large to be kept among them.
    used: usize,
    /// The most that were in use at one time, up to when one was last given back.
    most: usize,
    /// Where room is made next: the classes take turns, so that sizes which nobody asks for any more go.
    turn: usize,
}

// SAFETY: a buffer that waits belongs to the list alone, whichever thread freed it.
unsafe impl Send for Kept {}

impl Kept {
    const fn new() -> Self {
        Self {
            last: [std::ptr::null_mut(); CLASSES],
            bytes: 0,
            used: 0,
            most: 0,
            turn: 0,
        }
    }

    /// So many bytes more are in use.
    fn begin(&mut self, bytes: usize) {
        self.used += bytes;
    }

    /// So many bytes are in use no more.
    fn end(&mut self, bytes: usize) {
        self.most = self.most.max(self.used);
        self.used -= bytes;
    }

    /// So many bytes that were to be in use are not: the system has none left.
    fn refuse(&mut self, bytes: usize) {
        self.used -= bytes;
    }

    /// The buffer of this class that was freed last.
    fn take(&mut self, class: Class) -> Option<*mut u8> {
        let first = self.last[class.index];
        if first.is_null() {
            return None;
        }
        // SAFETY: what is in the list was put there by `keep`, which wrote it.
        self.last[class.index] = unsafe { (*first).next };
        self.bytes -= class.bytes;
        Some(first.cast())
    }

    /// Adds a buffer of this class that nobody uses.
    ///
    /// # Safety
    /// It is of the class, and the caller's own to give away.
    unsafe fn keep(&mut self, class: Class, buffer: *mut u8) {
        // Aligned, as all buffers of a class are.
        #[allow(clippy::cast_ptr_alignment)]
        let waiting = buffer.cast::<Waiting>();
        // SAFETY: the buffer is larger than this, and its alignment that of a class.
        unsafe {
            waiting.write(Waiting {
                next: self.last[class.index],
            });
        }
        self.last[class.index] = waiting;
        self.bytes += class.bytes;
    }

    /// A buffer that goes back to the system because all together take too much.
    fn surplus(&mut self) -> Option<(Class, *mut u8)> {
        let most = self.most.max(self.used);
        if self.used + self.bytes <= most + (most / 8).clamp(LITTLE, MUCH) {
            return None;
        }
        self.any()
    }

    /// One of the buffers that wait.
    fn any(&mut self) -> Option<(Class, *mut u8)> {
        for _ in 0..CLASSES {
            self.turn = (self.turn + 1) % CLASSES;
            let class = Class::at(self.turn);
            if let Some(buffer) = self.take(class) {
                return Some((class, buffer));
            }
        }
        None
    }
}

/// Buffers of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    index: usize,
    bytes: usize,
}

impl Class {
    /// That of a buffer of this layout; `None` where it is not kept.
    const fn of(layout: Layout) -> Option<Self> {
        let bytes = layout.size();
        if bytes < LEAST || bytes > MOST || layout.align() > ALIGNMENT {
            return None;
        }
        let power = bytes.ilog2();
        let step = (1 << power) / STEPS;
        Some(Self::at(
            (power - LEAST_LOG) as usize * STEPS + (bytes - (1 << power)).div_ceil(step),
        ))
    }

    const fn at(index: usize) -> Self {
        let power = LEAST << (index / STEPS);
        Self {
            index,
            bytes: power + index % STEPS * (power / STEPS),
        }
    }

    /// Gives a buffer of this class back.
    ///
    /// # Safety
    /// It is of the class, and nobody uses it.
    unsafe fn give_back(self, buffer: *mut u8) {
        // SAFETY: as the caller's.
        unsafe { pages::give(buffer, self.bytes) }
    }
}

/// Whose a buffer is.
enum Owner {
    /// Small, or of an alignment of its own.
    Library,
    /// Too large to be kept, but counted.
    System,
    Ours(Class),
}

impl Owner {
    const fn of(layout: Layout) -> Self {
        match Class::of(layout) {
            Some(class) => Self::Ours(class),
            None if layout.size() > MOST && layout.align() <= ALIGNMENT => Self::System,
            None => Self::Library,
        }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").finish_non_exhaustive()
    }
}

impl Buffers {
    /// Nothing waits yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Kept::new()))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of those that wait; where none does, its bytes are in use all the same, for [`Self::fresh`] is next.
    fn waiting(&self, class: Class) -> Option<*mut u8> {
        let mut kept = self.kept();
        kept.begin(class.bytes);
        let waiting = kept.take(class);
        if waiting.is_none() {
            self.give_back_surplus(kept);
        }
        waiting
    }

    /// New and zero, of so many bytes that are counted as in use; null where the system has none left, even with all that waits here.
    fn fresh(&self, bytes: usize) -> *mut u8 {
        let mut new = pages::take(bytes);
        if new.is_null() && self.give_back_all() {
            new = pages::take(bytes);
        }
        if new.is_null() {
            self.kept().refuse(bytes);
        }
        new
    }

    /// Gives back what waits; whether anything did.
    fn give_back_all(&self) -> bool {
        let mut any = false;
        loop {
            // The lock is free again before the system is asked.
            let waiting = self.kept().any();
            let Some((class, buffer)) = waiting else { return any };
            // SAFETY: it is in no list any more.
            unsafe { class.give_back(buffer) };
            any = true;
        }
    }

    fn give_back_surplus<'a>(&'a self, mut kept: MutexGuard<'a, Kept>) {
        while let Some((class, buffer)) = kept.surplus() {
            drop(kept);
            // SAFETY: it is in no list any more.
            unsafe { class.give_back(buffer) };
            kept = self.kept();
        }
    }

    /// New and zero; null where the system has none left.
    fn large(&self, bytes: usize) -> *mut u8 {
        self.begin_large(bytes);
        self.fresh(bytes)
    }

    fn begin_large(&self, bytes: usize) {
        let mut kept = self.kept();
        kept.begin(bytes);
        self.give_back_surplus(kept);
    }
}

// SAFETY: what is handed out is a buffer of the system's, at least as large and as aligned as asked for, that is in no list. Whose it is, and how
// large, depends on its layout alone, so it goes back to where it came from.
unsafe impl GlobalAlloc for Buffers {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Owner::of(layout) {
            Owner::Ours(class) => self.waiting(class).unwrap_or_else(|| self.fresh(class.bytes)),
            Owner::System => self.large(layout.size()),
            // SAFETY: as the caller's.
            Owner::Library => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match Owner::of(layout) {
            Owner::Ours(class) => match self.waiting(class) {
                None => self.fresh(class.bytes),
                Some(buffer) => {
                    // SAFETY: it has so many bytes.
                    unsafe { buffer.write_bytes(0, layout.size()) };
                    buffer
                }
            },
            Owner::System => self.large(layout.size()),
            // SAFETY: as the caller's.
            Owner::Library => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, buffer: *mut u8, layout: Layout) {
        match Owner::of(layout) {
            Owner::Ours(class) => {
                let mut kept = self.kept();
                kept.end(class.bytes);
                // SAFETY: the caller gives it away, and it was allocated as of this class.
                unsafe { kept.keep(class, buffer) };
            }
            Owner::System => {
                self.kept().end(layout.size());
                // SAFETY: as the caller's.
                unsafe { pages::give(buffer, layout.size()) };
            }
            // SAFETY: as the caller's.
            Owner::Library => unsafe { System.dealloc(buffer, layout) },
        }
    }

    unsafe fn realloc(&self, buffer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's size does not overflow with this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        match (Owner::of(layout), Owner::of(new)) {
            // SAFETY: as the caller's.
            (Owner::Library, Owner::Library) => unsafe { System.realloc(buffer, layout, bytes) },
            (Owner::Ours(old), Owner::Ours(new)) if old == new => buffer,
            (Owner::System, Owner::System) => {
                // SAFETY: as the caller's.
                let resize = || unsafe { pages::resize(buffer, layout.size(), bytes) };
                let mut moved = resize();
                if moved.is_null() && self.give_back_all() {
                    moved = resize();
                }
                if !moved.is_null() {
                    self.kept().end(layout.size());
                    self.begin_large(bytes);
                }
                moved
            }
            _ => {
                // SAFETY: as the caller's.
                let moved = unsafe { self.alloc(new) };
                if !moved.is_null() {
                    // SAFETY: both have so many bytes, and a buffer that is in use is not handed out.
                    unsafe {
                        std::ptr::copy_nonoverlapping(buffer, moved, layout.size().min(bytes));
                        self.dealloc(buffer, layout);
                    }
                }
                moved
            }
        }
    }
}

#[cfg(test)]
#[path = "allocator_tests.rs"]
mod tests;
