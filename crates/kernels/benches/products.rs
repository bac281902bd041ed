//! `cargo bench -p fisherflow-kernels`: the shapes of a run against faer and against this machine's own peak, side by side.
//!
//! Times are of the process on its CPUs, over the number of threads; rounds alternate between what is compared, and the best of each counts:
//! so a busy machine weighs little, and on all alike. Arguments: threads (default: all), then rounds (default 7).

use std::hint::black_box;

use faer::linalg::matmul::{matmul, triangular};
use faer::{Accum, MatMut, MatRef, Par};
use fisherflow_kernels::{Element, Packed, Path, Products, Start, add_gram, multiply, multiply_packed, tile_products};
use nix::time::{ClockId, clock_gettime};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `m x k x n`: forward, Jacobian, two smaller layers.
const SHAPES: [(usize, usize, usize); 4] = [
    (512, 7213, 2048),
    (1536, 2048, 7213),
    (512, 2048, 1024),
    (512, 256, 128),
];

/// Rows and columns of what is multiplied by itself.
const GRAMS: [(usize, usize); 2] = [(512, 7214), (1536, 2048)];

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse::<usize>().ok());
    let threads = arguments.next().unwrap_or_else(rayon::current_num_threads);
    let rounds = arguments.next().unwrap_or(7);
    println!("{threads} threads, best of {rounds}, GFLOP/s (share of the peak); symmetric updates counted once");
    measure::<f32>("f32", threads, rounds);
    measure::<f64>("f64", threads, rounds);
}

/// One of the ways of making a product.
type Run<'a, T> = &'a mut dyn FnMut(MatMut<'_, T>);

fn measure<T: Element + From<f32>>(name: &str, threads: usize, rounds: usize) {
    let times = 4000;
    let fastest = (0..rounds)
        .map(|_| {
            seconds(usize::MAX, 1, || {
                black_box(tile_products::<T>(times));
            })
        })
        .fold(f64::INFINITY, f64::min);
    let peak = threads as f64 * 2e-9 * tile_products::<T>(times) as f64 / fastest;
    println!("{name}: peak of multiply-adds {peak:.0}");
    for (m, k, n) in SHAPES {
        let (a, b) = (draw::<T>(m * k, 1), draw::<T>(k * n, 2));
        let (a, b) = (
            MatRef::from_row_major_slice(&a, m, k),
            MatRef::from_row_major_slice(&b, k, n),
        );
        let packed = Packed::new(b, threads);
        let mut out = vec![T::ZERO; m * n];
        let mut dst = MatMut::from_row_major_slice_mut(&mut out, m, n);
        let mut best = [f64::INFINITY; 5];
        let narrow = Path::Avx512Bf16;
        let narrow = Packed::new(
            b,
            Products {
                path: if narrow.is_available() { narrow } else { Path::best() },
                threads,
            },
        );
        let par = if threads > 1 { Par::rayon(threads) } else { Par::Seq };
        for _ in 0..rounds {
            let runs: [Run<'_, T>; 5] = [
                &mut |dst| multiply_packed(dst, Start::Zero, a, &packed, threads),
                &mut |dst| multiply(dst, Start::Zero, a, b, threads),
                &mut |dst| multiply_packed(dst, Start::Zero, a, &narrow, threads),
                &mut |dst| {
                    if Path::Avx2.is_available() {
                        multiply(
                            dst,
                            Start::Zero,
                            a,
                            b,
                            Products {
                                path: Path::Avx2,
                                threads,
                            },
                        );
                    }
                },
                &mut |dst| matmul(dst, Accum::Replace, a, b, T::one_impl(), par),
            ];
            for (best, run) in best.iter_mut().zip(runs) {
                *best = best.min(seconds(m * k * n, threads, || run(dst.as_mut())));
            }
        }
        report(
            name,
            &format!("{m}x{k}x{n}"),
            (m * k * n) as f64,
            peak,
            &["packed", "plain", "packed bf16", "avx2", "faer"],
            &best,
        );
    }
    for (rows, n) in GRAMS {
        let x = draw::<T>(rows * n, 3);
        let view = MatRef::from_row_major_slice(&x, rows, n);
        let mut sums = vec![0.0; n * (n + 1) / 2];
        let mut out = vec![T::ZERO; n * n];
        let mut dst = MatMut::from_row_major_slice_mut(&mut out, n, n);
        let mut best = [f64::INFINITY; 2];
        let par = if threads > 1 { Par::rayon(threads) } else { Par::Seq };
        for _ in 0..rounds {
            best[0] = best[0].min(seconds(rows * n * n / 2, threads, || {
                add_gram(view, &mut sums, threads)
            }));
            best[1] = best[1].min(seconds(rows * n * n / 2, threads, || {
                triangular::matmul(
                    dst.as_mut(),
                    triangular::BlockStructure::TriangularLower,
                    Accum::Replace,
                    view.transpose(),
                    triangular::BlockStructure::Rectangular,
                    view,
                    triangular::BlockStructure::Rectangular,
                    T::one_impl(),
                    par,
                );
            }));
        }
        let half = (n * (n + 1) / 2 * rows) as f64;
        report(
            name,
            &format!("gram {rows}x{n}"),
            half,
            peak,
            &["into f64 sums", "faer"],
            &best,
        );
    }
}

fn report(name: &str, shape: &str, multiplications: f64, peak: f64, what: &[&str], best: &[f64]) {
    let rates: Vec<f64> = best.iter().map(|seconds| 2e-9 * multiplications / seconds).collect();
    let told: Vec<String> = what
        .iter()
        .zip(&rates)
        .map(|(what, rate)| format!("{what} {rate:.0} ({:.2})", rate / peak))
        .collect();
    let faer = rates.last().copied().unwrap_or(1.0);
    println!("{name} {shape:18} {}; {:.2}x faer", told.join(", "), rates[0] / faer);
}

/// CPU seconds of one call over the number of threads, the best of some where calls are short.
fn seconds(multiplications: usize, threads: usize, mut call: impl FnMut()) -> f64 {
    let times = (200_000_000 / multiplications.max(1)).clamp(1, 50);
    let now = || {
        clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
            .map_or(f64::NAN, |time| std::time::Duration::from(time).as_secs_f64())
    };
    let mut best = f64::INFINITY;
    for _ in 0..times {
        let start = now();
        black_box(&mut call)();
        best = best.min((now() - start) / threads as f64);
    }
    best
}

fn draw<T: From<f32>>(len: usize, seed: u64) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| T::from(rng.random_range(-1.0f32..1.0))).collect()
}
