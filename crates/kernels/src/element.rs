//! The numbers that products are made of.

use std::ops::Add;
use std::thread::LocalKey;

use faer::traits::RealField;

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
    ($number:ty, $avx2:path, $avx512:path, $of_bf16:path) => {
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
        }

        impl sealed::Sealed for $number {
            #[expect(private_interfaces, reason = "a sealed trait's own")]
            fn tile(path: Path) -> Tile<Self> {
                match path {
                    Path::Portable => portable::tile(),
                    #[cfg(target_arch = "x86_64")]
                    Path::Avx2 => $avx2(),
                    #[cfg(target_arch = "x86_64")]
                    Path::Avx512 => $avx512(),
                    #[cfg(target_arch = "x86_64")]
                    narrow => $of_bf16(narrow),
                    #[cfg(not(target_arch = "x86_64"))]
                    _ => portable::tile(),
                }
            }

            #[expect(private_interfaces, reason = "a sealed trait's own")]
            fn workspace() -> &'static LocalKey<Kept<Self>> {
                thread_local!(static WORKSPACE: Kept<$number> = Kept::default());
                &WORKSPACE
            }
        }
    };
}

element!(f32, x86::avx2_f32, avx512_f32, of_bf16);
element!(f64, x86::avx2_f64, x86::avx512_f64, of_f64);

/// The tile of AVX-512, which has its own way of packing.
#[cfg(target_arch = "x86_64")]
fn avx512_f32() -> Tile<f32> {
    Tile {
        pack_lhs: x86_turn::pack_strip_f32::<{ x86::AVX512_ROWS }>,
        pack_rhs: x86_turn::pack_strip_f32::<{ x86::AVX512_COLS }>,
        ..x86::avx512_f32()
    }
}

/// The tile of a path of bf16.
#[cfg(target_arch = "x86_64")]
fn of_bf16(path: Path) -> Tile<f32> {
    match path {
        Path::Avx512Bf16x3 => x86_bf16::three(),
        Path::Avx512Bf16 => x86_bf16::one(),
        Path::AmxBf16x3 => amx::three(),
        Path::AmxBf16 => amx::one(),
        Path::Portable | Path::Avx2 | Path::Avx512 => avx512_f32(),
    }
}

/// Where f32 is made of bf16, f64 stays what it is.
#[cfg(target_arch = "x86_64")]
fn of_f64(_: Path) -> Tile<f64> {
    x86::avx512_f64()
}
