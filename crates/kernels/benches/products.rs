//! `cargo bench -p fisherflow-kernels`: the shapes of a run against faer and against this machine's own peak, side by side.
//!
//! The peak is that of fused multiply-adds on registers alone, taken in the same rounds. Times are of a worker's one thread on its CPU, or of the
//! process over its threads; rounds alternate between what is compared, and the best of each counts: so a busy machine weighs little, and on all
//! alike.
//!
//! Arguments, in any order: `workers=N` at once, each with its own operands, as a run's (default 1); `threads=N` of each (default: all CPUs over
//! workers); `rounds=N` (default 7); and words, of which a line's name has to hold one: `f32`, `gram`, `thin`, `512x7213x2048`.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _mm256_fmadd_pd, _mm256_fmadd_ps, _mm256_set1_pd, _mm256_set1_ps, _mm512_fmadd_pd, _mm512_fmadd_ps, _mm512_set1_pd,
    _mm512_set1_ps,
};
use std::hint::black_box;
use std::sync::Barrier;

use faer::linalg::matmul::{matmul, triangular};
use faer::{Accum, MatMut, MatRef, Par};
use fisherflow_kernels::{
    Element, Packed, Path, Products, RowGroups, Start, add_cross, add_gram, multiply, multiply_packed,
    multiply_packed_in_groups,
};
use nix::time::{ClockId, clock_gettime};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `m x k x n`: forward, Jacobian, smaller layers, a square.
const SHAPES: [(usize, usize, usize); 6] = [
    (512, 7213, 2048),
    (1536, 2048, 7213),
    (512, 2048, 1024),
    (1536, 1024, 2048),
    (512, 256, 128),
    (2048, 2048, 2048),
];

/// `m x k x n` with few rows or columns.
const THIN: [(usize, usize, usize); 4] = [(1, 7213, 2048), (3, 2048, 7213), (7213, 2048, 1), (512, 32, 3)];

/// `m x k x n` of gradients behind ReLUs, half of which are off, and of how many outputs: to the flux, to a layer before, and their rotation, which
/// for the sums of `ekfac` has those of a spectrum together.
const BEHIND_RELUS: [(usize, usize, usize, usize); 5] = [
    (1536, 2048, 7213, 3),
    (1024, 2048, 7213, 2),
    (2500, 2048, 7213, 10),
    (1536, 1024, 2048, 3),
    (1536, 2048, 2048, 3),
];

/// Rows and columns of what is multiplied by itself.
const GRAMS: [(usize, usize); 4] = [(512, 7214), (1536, 7214), (1536, 2048), (1536, 256)];

/// Rows, and columns of either side, of sums of products over rows.
const CROSSES: [(usize, usize, usize); 1] = [(1536, 2048, 1025)];

fn main() {
    let mut bench = Bench {
        workers: 1,
        threads: 0,
        rounds: 7,
        words: Vec::new(),
    };
    for argument in std::env::args().skip(1).filter(|argument| argument != "--bench") {
        let number = |text: &str| text.parse().unwrap_or(1).max(1);
        match argument.split_once('=') {
            Some(("workers", n)) => bench.workers = number(n),
            Some(("threads", n)) => bench.threads = number(n),
            Some(("rounds", n)) => bench.rounds = number(n),
            _ => bench.words.push(argument),
        }
    }
    if bench.threads == 0 {
        bench.threads = (rayon::current_num_threads() / bench.workers).max(1);
    }
    println!(
        "{} workers of {} threads, best of {}; GFLOP/s of all (share of the peak); symmetric updates counted once",
        bench.workers, bench.threads, bench.rounds
    );
    bench.all::<f32>("f32");
    bench.all::<f64>("f64");
}

/// One of the ways of making a product, and its name.
type Run<'a> = (&'a str, &'a mut (dyn FnMut() + Send));

struct Bench {
    workers: usize,
    threads: usize,
    rounds: usize,
    words: Vec<String>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word))
    }

    fn par(&self) -> Par {
        if self.threads > 1 {
            Par::rayon(self.threads)
        } else {
            Par::Seq
        }
    }

    fn all<T: Number>(&self, name: &str) {
        for (m, k, n) in SHAPES {
            self.product::<T>(&format!("{name} {m}x{k}x{n}"), [m, k, n]);
        }
        for (m, k, n) in THIN {
            self.product::<T>(&format!("{name} thin {m}x{k}x{n}"), [m, k, n]);
        }
        for (m, k, n, outputs) in BEHIND_RELUS {
            self.behind_relus::<T>(&format!("{name} relu {m}x{k}x{n} of {outputs}"), [m, k, n], outputs);
        }
        for (rows, n) in GRAMS {
            self.gram::<T>(&format!("{name} gram {rows}x{n}"), rows, n);
        }
        for (rows, n, m) in CROSSES {
            self.cross::<T>(&format!("{name} cross {rows}x{n}x{m}"), [rows, n, m]);
        }
    }

    fn product<T: Number>(&self, name: &str, [m, k, n]: [usize; 3]) {
        if !self.wants(name) {
            return;
        }
        let b = draw::<T>(k * n, 2);
        let b = MatRef::from_row_major_slice(&b, k, n);
        let threads = self.threads;
        let packed = Packed::new(b, threads);
        let on = |path: Path| {
            let path = if path.is_available() { path } else { Path::best() };
            Products { path, threads }
        };
        let narrow = Packed::new(b, on(Path::Avx512Bf16));
        let whole = Packed::new(b, on(Path::I16));
        self.compare::<T>(name, m * k * n, |measure| {
            let a = draw::<T>(m * k, 1);
            let a = MatRef::from_row_major_slice(&a, m, k);
            let mut out = vec![vec![T::ZERO; m * n]; 6];
            let mut dsts = out.iter_mut().map(|out| MatMut::from_row_major_slice_mut(out, m, n));
            let mut dst = || dsts.next().unwrap_or_else(|| unreachable!());
            let mut dsts = [dst(), dst(), dst(), dst(), dst(), dst()];
            let [c0, c1, c2, c3, c4, c5] = &mut dsts;
            measure(&mut [
                ("packed", &mut || {
                    multiply_packed(c0.as_mut(), Start::Zero, a, &packed, threads);
                }),
                ("plain", &mut || multiply(c1.as_mut(), Start::Zero, a, b, threads)),
                ("packed bf16", &mut || {
                    multiply_packed(c2.as_mut(), Start::Zero, a, &narrow, threads);
                }),
                ("packed i16", &mut || {
                    multiply_packed(c5.as_mut(), Start::Zero, a, &whole, threads);
                }),
                ("avx2", &mut || {
                    multiply(c3.as_mut(), Start::Zero, a, b, on(Path::Avx2));
                }),
                ("faer", &mut || {
                    matmul(c4.as_mut(), Accum::Replace, a, b, T::one_impl(), self.par());
                }),
            ]);
        });
    }

    /// Rates as if nothing were left out.
    fn behind_relus<T: Number>(&self, name: &str, [m, k, n]: [usize; 3], outputs: usize) {
        if !self.wants(name) {
            return;
        }
        let b = draw::<T>(k * n, 2);
        let b = MatRef::from_row_major_slice(&b, k, n);
        let packed = Packed::new(b, self.threads);
        self.compare::<T>(name, m * k * n, |measure| {
            let (mut a, groups) = (draw::<T>(m * k, 1), m / outputs);
            for (at, off) in draw::<f32>(groups * k, 5).into_iter().enumerate() {
                for row in 0..outputs {
                    a[row * groups * k + at] = if off < 0.0 { T::ZERO } else { a[row * groups * k + at] };
                }
            }
            let together: Vec<T> = (0..m)
                .map(|row| row % outputs * groups + row / outputs)
                .flat_map(|row| &a[row * k..(row + 1) * k])
                .copied()
                .collect();
            let together = MatRef::from_row_major_slice(&together, m, k);
            let a = MatRef::from_row_major_slice(&a, m, k);
            let [mut c0, mut c1, mut c2, mut c3] = [(); 4].map(|()| vec![T::ZERO; m * n]);
            let mut c0 = MatMut::from_row_major_slice_mut(&mut c0, m, n);
            let mut c1 = MatMut::from_row_major_slice_mut(&mut c1, m, n);
            let mut c2 = MatMut::from_row_major_slice_mut(&mut c2, m, n);
            let mut c3 = MatMut::from_row_major_slice_mut(&mut c3, m, n);
            measure(&mut [
                ("zeros left out", &mut || {
                    let of = RowGroups::Apart(groups);
                    multiply_packed_in_groups(c0.as_mut(), Start::Zero, a, of, &packed, self.threads);
                }),
                ("of rows together", &mut || {
                    let of = RowGroups::Together(outputs);
                    multiply_packed_in_groups(c3.as_mut(), Start::Zero, together, of, &packed, self.threads);
                }),
                ("packed", &mut || {
                    multiply_packed(c1.as_mut(), Start::Zero, a, &packed, self.threads)
                }),
                ("faer", &mut || {
                    matmul(c2.as_mut(), Accum::Replace, a, b, T::one_impl(), self.par());
                }),
            ]);
        });
    }

    fn gram<T: Number>(&self, name: &str, rows: usize, n: usize) {
        if !self.wants(name) {
            return;
        }
        let half = n * (n + 1) / 2;
        self.compare::<T>(name, half * rows, |measure| {
            let x = draw::<T>(rows * n, 3);
            let x = MatRef::from_row_major_slice(&x, rows, n);
            let mut sums = vec![0.0; half];
            let mut out = vec![T::ZERO; n * n];
            let mut dst = MatMut::from_row_major_slice_mut(&mut out, n, n);
            measure(&mut [
                ("into f64 sums", &mut || add_gram(x, &mut sums, self.threads)),
                ("faer", &mut || {
                    triangular::matmul(
                        dst.as_mut(),
                        triangular::BlockStructure::TriangularLower,
                        Accum::Replace,
                        x.transpose(),
                        triangular::BlockStructure::Rectangular,
                        x,
                        triangular::BlockStructure::Rectangular,
                        T::one_impl(),
                        self.par(),
                    );
                }),
            ]);
        });
    }

    fn cross<T: Number>(&self, name: &str, [rows, n, m]: [usize; 3]) {
        if !self.wants(name) {
            return;
        }
        self.compare::<T>(name, rows * n * m, |measure| {
            let (x, y) = (draw::<T>(rows * n, 3), draw::<T>(rows * m, 4));
            let x = MatRef::from_row_major_slice(&x, rows, n);
            let y = MatRef::from_row_major_slice(&y, rows, m);
            let mut sums = vec![0.0; n * m];
            let mut out = vec![T::ZERO; n * m];
            let mut dst = MatMut::from_row_major_slice_mut(&mut out, n, m);
            measure(&mut [
                ("into f64 sums", &mut || add_cross(x, y, &mut sums, m, self.threads)),
                ("faer", &mut || {
                    matmul(
                        dst.as_mut(),
                        Accum::Replace,
                        x.transpose(),
                        y,
                        T::one_impl(),
                        self.par(),
                    );
                }),
            ]);
        });
    }

    /// Tells the rates of what `worker` hands over to be measured; every worker hands over the same.
    fn compare<T: Number>(
        &self,
        name: &str,
        multiplications: usize,
        worker: impl Fn(&mut dyn FnMut(&mut [Run<'_>])) + Sync,
    ) {
        let times = (1_000_000_000 / multiplications.max(1)).clamp(1, 500);
        let cpus = self.workers * self.threads;
        let counted = if self.threads == 1 { 1 } else { cpus };
        let together = Barrier::new(self.workers);
        let measure = |runs: &mut [Run<'_>]| {
            let (mut best, mut peak) = (vec![f64::INFINITY; runs.len()], 0.0);
            for _ in 0..self.rounds {
                together.wait();
                let start = now(1);
                let number = black_box(T::on_registers(black_box(400_000)));
                peak = f64::max(peak, 2e-9 * number as f64 / (now(1) - start));
                for (best, (_, run)) in best.iter_mut().zip(runs.iter_mut()) {
                    together.wait();
                    let start = now(self.threads);
                    for _ in 0..times {
                        run();
                    }
                    together.wait();
                    *best = best.min((now(self.threads) - start) / (times * counted) as f64);
                }
            }
            (best, peak * cpus as f64)
        };
        let first = |runs: &mut [Run<'_>]| {
            let (best, peak) = measure(runs);
            let rates: Vec<f64> = best
                .into_iter()
                .map(|seconds| 2e-9 * (multiplications * self.workers) as f64 / seconds)
                .collect();
            let told: Vec<String> = runs
                .iter()
                .zip(&rates)
                .map(|((what, _), rate)| format!("{what} {rate:.0} ({:.2})", rate / peak))
                .collect();
            let faer = rates.last().copied().unwrap_or(1.0);
            println!(
                "{name:24} of {peak:.0}: {}; {:.2}x faer",
                told.join(", "),
                rates[0] / faer
            );
        };
        std::thread::scope(|scope| {
            for _ in 1..self.workers {
                scope.spawn(|| {
                    worker(&mut |runs| {
                        measure(runs);
                    });
                });
            }
            worker(&mut |runs| first(runs));
        });
    }
}

/// Chains of fused multiply-adds that do not wait for each other: more than any machine has under way at once.
const CHAINS: usize = 12;

/// What products are made of, and how fast that could be.
trait Number: Element + From<f32> {
    /// Fused multiply-adds of the best path on registers alone, `times` rounds of them, on this thread; gives their number. Nothing is faster;
    /// on the portable path, as far as the compiler packs them.
    fn on_registers(times: usize) -> usize;
}

macro_rules! number {
    ($number:ty: $($path:ident, $features:literal, $lanes:literal, $set:ident, $fma:ident);+) => {
        impl Number for $number {
            fn on_registers(times: usize) -> usize {
                match Path::best() {
                    $(#[cfg(target_arch = "x86_64")]
                    Path::$path => {
                        #[target_feature(enable = $features)]
                        fn spin(times: usize) -> usize {
                            let (x, mut sums) = (black_box($set(0.5)), [$set(1.0); CHAINS]);
                            for _ in 0..times {
                                for sum in &mut sums {
                                    *sum = $fma(x, *sum, x);
                                }
                            }
                            black_box(sums);
                            times * CHAINS * $lanes
                        }
                        // SAFETY: the best path is there.
                        unsafe { spin(times) }
                    })+
                    _ => {
                        // Two registers of 16 bytes a chain, which all together are no more than there are.
                        const LANES: usize = 32 / size_of::<$number>();
                        let (x, mut sums): (Self, _) = (black_box(0.5), [[1.0; LANES]; CHAINS]);
                        for _ in 0..times {
                            for sum in sums.as_flattened_mut() {
                                *sum = x.fused_multiply_add(*sum, x);
                            }
                        }
                        black_box(sums);
                        times * CHAINS * LANES
                    }
                }
            }
        }
    };
}

number!(f32: Avx512, "avx512f", 16, _mm512_set1_ps, _mm512_fmadd_ps; Avx2, "avx2,fma", 8, _mm256_set1_ps, _mm256_fmadd_ps);
number!(f64: Avx512, "avx512f", 8, _mm512_set1_pd, _mm512_fmadd_pd; Avx2, "avx2,fma", 4, _mm256_set1_pd, _mm256_fmadd_pd);

/// CPU seconds of this thread where it works alone, else of the process.
fn now(threads: usize) -> f64 {
    let clock = if threads == 1 {
        ClockId::CLOCK_THREAD_CPUTIME_ID
    } else {
        ClockId::CLOCK_PROCESS_CPUTIME_ID
    };
    clock_gettime(clock).map_or(f64::NAN, |time| std::time::Duration::from(time).as_secs_f64())
}

fn draw<T: From<f32>>(len: usize, seed: u64) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| T::from(rng.random_range(-1.0f32..1.0))).collect()
}
