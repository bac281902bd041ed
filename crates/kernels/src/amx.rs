//! Register tiles of AMX: `tdpbf16ps` multiplies a tile of 16 x 32 bf16 by one of 32 x 16.
//!
//! Packed, 32 inner indices of a strip of 32 are tiles of 1 KiB, one after another: `hi` of the first 16 rows (columns), of the last 16, and
//! likewise `lo`. A left tile is `[row][pair]`, a right one `[pair][column]`. The tiles' shapes are set on every call, in the thread that makes it,
//! and given back.
//!
//! The instructions have no intrinsics in stable Rust. Where a CPU lacks them, tests run this same machine code on an emulator.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

use faer::MatRef;

use crate::bf16::{self, Parts};
use crate::pack::Map;
use crate::tile::Tile;
use crate::x86;

/// Rows and columns of a product's tile: two tiles of 16 each way.
const SIDE: usize = 32;

/// Inner indices of one step.
const STEP: usize = 32;

/// Values of a tile as f32 slots.
const SLOTS: usize = 256;

/// Inner indices between a tile's load and its store: the strips of these, and the tile, stay in the first cache level.
const AT_ONCE: usize = 128;

/// Rows and columns of a job in tiles of [`SIDE`].
const JOB: usize = 8;

/// One product of bf16.
pub(crate) fn one() -> Tile<f32> {
    Tile {
        half_slots: 1,
        multiply: |_| (SIDE, multiply_one),
        pack_lhs: |matrix, first, from, map, out| {
            // SAFETY: a tile is handed out only where its path is there.
            unsafe { pack_lhs(matrix, first, from, map, Parts::One, out) }
        },
        pack_rhs: |matrix, first, from, map, out| {
            // SAFETY: as above.
            unsafe { pack_rhs(matrix, first, from, map, Parts::One, out) }
        },
        ..three()
    }
}

/// Three products of bf16.
pub(crate) fn three() -> Tile<f32> {
    Tile {
        rows: SIDE,
        cols: SIDE,
        step: STEP,
        half_slots: 2,
        at_once: AT_ONCE,
        job: [JOB, JOB],
        group: 1,
        multiply: |_| (SIDE, multiply_three),
        pack_lhs: |matrix, first, from, map, out| {
            // SAFETY: as above.
            unsafe { pack_lhs(matrix, first, from, map, Parts::Two, out) }
        },
        pack_rhs: |matrix, first, from, map, out| {
            // SAFETY: as above.
            unsafe { pack_rhs(matrix, first, from, map, Parts::Two, out) }
        },
        ..x86::avx512_f32()
    }
}

/// Whether the CPU has the instructions, and the system lets this process use them, which it is asked for here.
pub(crate) fn is_granted() -> bool {
    let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    if !wide || !is_x86_feature_detected!("xsave") || __cpuid_count(0, 0).eax < 7 {
        return false;
    }
    // CPUID.7.0:EDX: 22 is AMX-BF16, 24 AMX-TILE.
    let has = __cpuid_count(7, 0).edx;
    if has & (1 << 22) == 0 || has & (1 << 24) == 0 {
        return false;
    }
    // SAFETY: the CPU has XSAVE.
    let enabled = unsafe { xcr0() };
    // Bits 17 and 18: the system saves the tiles' configuration and their data.
    if enabled >> 17 & 3 != 3 {
        return false;
    }
    requested()
}

/// XCR0.
#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    // SAFETY: std says that there is XSAVE only where the system has switched it on.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

/// Asks Linux for the tiles' state: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, once and for all threads of the process.
#[cfg(target_os = "linux")]
fn requested() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let mut answer = ARCH_PRCTL;
    // SAFETY: a system call that changes nothing but this permission; it overwrites rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inout("rax") answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn requested() -> bool {
    false
}

/// Tiles that one step of a strip takes.
const fn tiles(parts: Parts) -> usize {
    match parts {
        Parts::One => 2,
        Parts::Two => 4,
    }
}

/// `[step][part][half][row][pair]`.
#[target_feature(enable = "avx512f,avx512bw")]
fn pack_lhs(matrix: MatRef<'_, f32>, first: usize, from: usize, map: Map, parts: Parts, out: &mut [f32]) {
    bf16::pack::<SIDE>(matrix, first, from, map, parts, out, |pair, part, row| {
        (pair / 16 * tiles(parts) + 2 * part + row / 16) * SLOTS + row % 16 * 16 + pair % 16
    });
}

/// `[step][part][half][pair][column]`.
#[target_feature(enable = "avx512f,avx512bw")]
fn pack_rhs(matrix: MatRef<'_, f32>, first: usize, from: usize, map: Map, parts: Parts, out: &mut [f32]) {
    bf16::pack::<SIDE>(matrix, first, from, map, parts, out, |pair, part, col| {
        (pair / 16 * tiles(parts) + 2 * part + col / 16) * SLOTS + pair % 16 * 16 + col % 16
    });
}

/// The configuration of all eight tiles: palette 1, 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_a_row: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_a_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The four products of tiles 4, 5 (left) and 6, 7 (right), added to tiles 0 to 3.
macro_rules! four_products {
    () => {
        "tdpbf16ps tmm0,tmm4,tmm6
         tdpbf16ps tmm1,tmm4,tmm7
         tdpbf16ps tmm2,tmm5,tmm6
         tdpbf16ps tmm3,tmm5,tmm7"
    };
}

/// A tile function whose step is `$step`, on strips of `$bytes` bytes a step.
macro_rules! multiply {
    ($name:ident, $bytes:literal, [$($step:expr),* $(,)?]) => {
        /// See [`crate::tile::TileFn`].
        unsafe fn $name(inner: usize, lhs: *const f32, rhs: *const f32, c: *mut f32, stride: usize, add: bool) {
            // SAFETY: the caller's promise: `inner / STEP` packed steps of both strips, and a tile of `c`, are there; tile registers are this
            // thread's own, and are released.
            unsafe {
                asm!(
                    "ldtilecfg [{shapes}]",
                    "mov {t}, {stride}",
                    "shl {t}, 4",
                    "add {t}, {c}",
                    "test {add:e}, {add:e}",
                    "jz 3f",
                    "tileloadd tmm0, [{c} + {stride}*1]",
                    "tileloadd tmm1, [{c} + {stride}*1 + 64]",
                    "tileloadd tmm2, [{t} + {stride}*1]",
                    "tileloadd tmm3, [{t} + {stride}*1 + 64]",
                    "jmp 4f",
                    "3:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    ".p2align 5",
                    "4:",
                    $($step,)*
                    concat!("add {lhs}, ", $bytes),
                    concat!("add {rhs}, ", $bytes),
                    "dec {steps}",
                    "jnz 4b",
                    "tilestored [{c} + {stride}*1], tmm0",
                    "tilestored [{c} + {stride}*1 + 64], tmm1",
                    "tilestored [{t} + {stride}*1], tmm2",
                    "tilestored [{t} + {stride}*1 + 64], tmm3",
                    "tilerelease",
                    shapes = in(reg) &raw const SHAPES,
                    lhs = inout(reg) lhs => _,
                    rhs = inout(reg) rhs => _,
                    steps = inout(reg) inner / STEP => _,
                    c = in(reg) c,
                    stride = in(reg) stride * size_of::<f32>(),
                    row = in(reg) 64_usize,
                    add = in(reg) u32::from(add),
                    t = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

multiply!(
    multiply_one,
    "2048",
    [
        "tileloadd tmm4, [{lhs} + {row}*1]",
        "tileloadd tmm5, [{lhs} + {row}*1 + 1024]",
        "tileloadd tmm6, [{rhs} + {row}*1]",
        "tileloadd tmm7, [{rhs} + {row}*1 + 1024]",
        four_products!(),
    ]
);

multiply!(
    multiply_three,
    "4096",
    [
        // hi lo
        "tileloadd tmm6, [{rhs} + {row}*1 + 2048]",
        "tileloadd tmm7, [{rhs} + {row}*1 + 3072]",
        "tileloadd tmm4, [{lhs} + {row}*1]",
        "tileloadd tmm5, [{lhs} + {row}*1 + 1024]",
        four_products!(),
        // hi hi
        "tileloadd tmm6, [{rhs} + {row}*1]",
        "tileloadd tmm7, [{rhs} + {row}*1 + 1024]",
        four_products!(),
        // lo hi
        "tileloadd tmm4, [{lhs} + {row}*1 + 2048]",
        "tileloadd tmm5, [{lhs} + {row}*1 + 3072]",
        four_products!(),
    ]
);

#[cfg(all(test, target_os = "linux"))]
#[path = "amx_tests.rs"]
mod tests;
