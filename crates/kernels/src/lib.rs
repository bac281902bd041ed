//! Products of matrices at the speed of the machine: the only crate with `unsafe`.
//!
//! Every element of a product is defined as one sum in one order, `c + s_0 + s_1 + ...`, where `s_i` is a chain of at most [`CHAIN`] fused
//! multiply-adds from 0 over consecutive inner indices. All paths (AVX-512, AVX2, portable) compute just that, whatever their register tiles,
//! cache blocks and threads: in f32 and f64 a product has the same bits on every machine, and so it has of whole numbers of 16 bits ([`Path::I16`]).

mod allocator;
#[cfg(target_arch = "x86_64")]
mod amx;
mod bf16;
mod blocks;
mod column_strips;
mod element;
mod gemm;
mod i16;
mod lent;
mod pack;
mod packed;
mod pages;
mod pairs;
mod path;
mod portable;
mod products;
mod self_check;
mod strips;
mod sums;
mod threads;
mod tile;
mod workspace;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_bf16;
#[cfg(target_arch = "x86_64")]
mod x86_i16;
#[cfg(target_arch = "x86_64")]
mod x86_turn;
#[cfg(target_arch = "x86_64")]
mod x86_zeros;
mod zeros;

pub use allocator::Buffers;
pub use blocks::workspace_bytes;
pub use column_strips::{ColumnStrips, StripUpdate};
pub use element::Element;
pub use gemm::{
    Start, add_upper, multiplied, multiplied_packed, multiplied_packed_in_groups, multiply, multiply_in_units,
    multiply_packed, multiply_packed_in_groups,
};
pub use lent::{LentCores, lend};
pub use packed::Packed;
pub use path::{Path, PathError};
pub use products::Products;
pub use sums::{add_cross, add_cross_with_squares, add_gram};
pub use threads::run_all;
pub use tile::CHAIN;
pub use zeros::RowGroups;
