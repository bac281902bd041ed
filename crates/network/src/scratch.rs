//! Room for arrays that every batch needs for a while, kept by each thread: the first touch of new memory costs more than most of what is
//! done in it.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

use candle_core::WithDType;
use fisherflow_kernels::Element;

/// Arrays of one type that a thread keeps.
const KEPT: usize = 4;

/// What a thread keeps of one type.
type Shelf<T> = RefCell<Vec<Vec<T>>>;

/// What networks, curvature and posterior are computed in: f32 or f64.
pub trait Number: WithDType + Element {
    /// This thread's arrays of such numbers that nobody uses now.
    #[doc(hidden)]
    fn shelf() -> &'static LocalKey<Shelf<Self>>;
}

macro_rules! number {
    ($number:ty) => {
        impl Number for $number {
            fn shelf() -> &'static LocalKey<Shelf<Self>> {
                thread_local!(static SHELF: Shelf<$number> = const { RefCell::new(Vec::new()) });
                &SHELF
            }
        }
    };
}

number!(f32);
number!(f64);

/// An array that goes back to its thread's shelf when it is dropped.
#[derive(Debug)]
pub struct Scratch<T: Number> {
    values: Vec<T>,
}

impl<T: Number> Scratch<T> {
    /// `len` numbers of whatever value.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let found = T::shelf().with_borrow_mut(|shelf| {
            // The smallest that is large enough; else the largest gives its place to a new one.
            let fits = |values: &&(usize, usize)| values.1 >= len;
            let sizes: Vec<(usize, usize)> = shelf.iter().map(Vec::capacity).enumerate().collect();
            let best = sizes.iter().filter(fits).min_by_key(|(_, size)| *size);
            let best = best.or_else(|| sizes.iter().max_by_key(|(_, size)| *size));
            best.map(|(index, _)| shelf.swap_remove(*index))
        });
        let mut values = found.filter(|values| values.capacity() >= len).unwrap_or_default();
        values.resize(len, T::default());
        Self { values }
    }

    /// As many numbers, those of `from`.
    #[must_use]
    pub fn copy_of(from: &[T]) -> Self {
        let mut scratch = Self::new(from.len());
        scratch.copy_from_slice(from);
        scratch
    }

    /// The numbers to be kept: they do not come back.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<T> {
        std::mem::take(&mut self.values)
    }
}

impl<T: Number> From<Vec<T>> for Scratch<T> {
    fn from(values: Vec<T>) -> Self {
        Self { values }
    }
}

impl<T: Number> Clone for Scratch<T> {
    fn clone(&self) -> Self {
        Self::copy_of(self)
    }
}

impl<T: Number> Drop for Scratch<T> {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        // A thread that ends has no shelf any more.
        let _ = T::shelf().try_with(|shelf| {
            if let Ok(mut shelf) = shelf.try_borrow_mut()
                && shelf.len() < KEPT
                && values.capacity() > 0
            {
                shelf.push(values);
            }
        });
    }
}

impl<T: Number> Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

impl<T: Number> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_used_again() {
        let first = Scratch::<f64>::new(1000);
        let address = first.as_ptr();
        drop(first);
        let second = Scratch::<f64>::new(900);
        let third = Scratch::<f64>::new(10);
        assert_eq!((second.as_ptr(), second.len(), third.len()), (address, 900, 10));
        drop(second);
        assert_eq!(Scratch::<f64>::new(1000).as_ptr(), address);
    }

    #[test]
    fn no_more_are_kept_than_said() {
        let many: Vec<_> = (0..2 * KEPT).map(|_| Scratch::<f32>::new(5)).collect();
        drop(many);
        assert_eq!(f32::shelf().with_borrow(Vec::len), KEPT);
        // What is too small makes room for what is larger.
        drop(Scratch::<f32>::new(50));
        assert_eq!(f32::shelf().with_borrow(Vec::len), KEPT);
        assert_eq!(Scratch::copy_of(&[1.0f32, 2.0]).into_vec(), [1.0, 2.0]);
        assert_eq!(f32::shelf().with_borrow(Vec::len), KEPT - 1);
    }
}
