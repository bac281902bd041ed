//! The numbers that products are made of.

use std::ops::Add;
use std::thread::LocalKey;

use faer::traits::RealField;

use crate::i16;
use crate::path::Path;
use crate::portable;
use crate::tile::Tile;
use crate::workspace::Kept;
#[cfg(target_arch = "x86_64")]
use crate::{amx, x86, x86_bf16, x86_turn};

/// f32 or f64.
pub trait Element: RealField + Copy + Default + Add<Output = Self> + Send + Sync + 'static + sealed::Sealed {
    /// 0.
    const ZERO: Self;

    /// `self * factor + term`, rounded once.
    #[must_use]
    fn fused_multiply_add(self, factor: Self, term: Self) -> Self;

    /// `self * self`.
    #[must_use]
    fn square(self) -> Self;

    /// The number in f64, exactly.
    fn widen(self) -> f64;

    /// `self * factor`.
    #[must_use]
    fn times(self, factor: f32) -> Self;
}

pub(crate) mod sealed {
    use super::{Kept, LocalKey, Path, Tile};

    /// What only this crate needs to know of a number type.
    pub trait Sealed: Sized + 'static {
        /// The register tile of a path that this machine has.
        #[expect(private_interfaces, reason = "a sealed trait's own")]
        fn tile(path: Path) -> Tile<Self>;

        /// This thread's workspace.
        #[expect(private_interfaces, reason = "a sealed trait's own")]
        fn workspace() -> &'static LocalKey<Kept<Self>>;
    }
}

macro_rules! element {
    ($number:ty, $tile:path) => {
        impl Element for $number {
            const ZERO: Self = 0.0;

            #[inline(always)]
            fn fused_multiply_add(self, factor: Self, term: Self) -> Self {
                self.mul_add(factor, term)
            }

            #[inline(always)]
            fn square(self) -> Self {
                self * self
            }

            #[inline(always)]
            fn widen(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn times(self, factor: f32) -> Self {
                self * Self::from(factor)
            }
        }

        impl sealed::Sealed for $number {
            #[expect(private_interfaces, reason = "a sealed trait's own")]
            fn tile(path: Path) -> Tile<Self> {
                $tile(path)
            }

            #[expect(private_interfaces, reason = "a sealed trait's own")]
            fn workspace() -> &'static LocalKey<Kept<Self>> {
                thread_local!(static WORKSPACE: Kept<$number> = Kept::default());
                &WORKSPACE
            }
        }
    };
}

element!(f32, tile_of_f32);
element!(f64, tile_of_f64);

fn tile_of_f32(path: Path) -> Tile<f32> {
    match path {
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => x86::avx2_f32(),
        // It has its own way of packing.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => Tile {
            pack_lhs: x86_turn::pack_strip_f32::<{ x86::AVX512_ROWS }>,
            pack_rhs: x86_turn::pack_strip_f32::<{ x86::AVX512_COLS }>,
            ..x86::avx512_f32()
        },
        #[cfg(target_arch = "x86_64")]
        Path::Avx512Bf16x3 => x86_bf16::three(),
        #[cfg(target_arch = "x86_64")]
        Path::Avx512Bf16 => x86_bf16::one(),
        #[cfg(target_arch = "x86_64")]
        Path::AmxBf16x3 => amx::three(),
        #[cfg(target_arch = "x86_64")]
        Path::AmxBf16 => amx::one(),
        Path::I16 => i16::tile(),
        Path::Portable => portable::tile(),
        #[cfg(not(target_arch = "x86_64"))]
        _ => portable::tile(),
    }
}

/// Where f32 is taken apart, f64 stays what it is.
fn tile_of_f64(path: Path) -> Tile<f64> {
    match path {
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => x86::avx2_f64(),
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 | Path::Avx512Bf16x3 | Path::Avx512Bf16 | Path::AmxBf16x3 | Path::AmxBf16 => x86::avx512_f64(),
        Path::I16 => tile_of_f64(Path::best()),
        Path::Portable => portable::tile(),
        #[cfg(not(target_arch = "x86_64"))]
        _ => portable::tile(),
    }
}
