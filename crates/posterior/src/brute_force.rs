//! The independent side of the tests: a small network in plain f64, its weight Jacobian row by row, and a dense inverse by elimination.

use candle_core::{DType, Device, Tensor};
use fisherflow_network::{DenseShape, LayerCapture};

/// Numbers in (-1, 1) from a seed (splitmix64).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// Close to standard normal: a sum of twelve.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() / 2.0
    }
}

/// A network of dense layers with ReLU between them.
pub struct Mlp {
    pub shapes: Vec<DenseShape>,
    /// `[W | b]` of each layer, `[out, columns]`.
    pub weights: Vec<Vec<f64>>,
}

/// One star's way through the network.
struct Sides {
    /// `[a; 1]` of each layer, `a` of one without bias.
    inputs: Vec<Vec<f64>>,
    /// `g` of each layer and output: `[layer][k][out]`.
    grads: Vec<Vec<Vec<f64>>>,
}

impl Mlp {
    pub fn random(widths: &[usize], seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let shapes: Vec<DenseShape> = widths
            .windows(2)
            .enumerate()
            .map(|(i, w)| DenseShape {
                name: format!("layers.{}", 2 * i),
                inputs: w[0],
                outputs: w[1],
                bias: true,
                shared: 1,
            })
            .collect();
        let weights = shapes
            .iter()
            .map(|s| {
                let size = (3.0 / s.inputs as f64).sqrt();
                (0..s.n_weights()).map(|_| size * numbers.next()).collect()
            })
            .collect();
        Self { shapes, weights }
    }

    /// Takes the bias from a layer.
    pub fn without_bias(mut self, layer: usize) -> Self {
        let shape = &mut self.shapes[layer];
        let columns = shape.columns();
        shape.bias = false;
        let rows = self.weights[layer].chunks_exact(columns);
        self.weights[layer] = rows.flat_map(|row| &row[..columns - 1]).copied().collect();
        self
    }

    pub fn n_outputs(&self) -> usize {
        self.shapes.last().unwrap().outputs
    }

    fn sides(&self, x: &[f64]) -> Sides {
        let mut inputs = Vec::new();
        let mut active = Vec::new();
        let mut a = x.to_vec();
        let last = self.shapes.len() - 1;
        for (l, (shape, weights)) in self.shapes.iter().zip(&self.weights).enumerate() {
            a.extend(shape.bias.then_some(1.0));
            let z: Vec<f64> = weights
                .chunks_exact(shape.columns())
                .map(|row| row.iter().zip(&a).map(|(w, a)| w * a).sum())
                .collect();
            inputs.push(std::mem::take(&mut a));
            let on: Vec<f64> = z
                .iter()
                .map(|&z| if l == last || z > 0.0 { 1.0 } else { 0.0 })
                .collect();
            a = z.iter().zip(&on).map(|(z, on)| z * on).collect();
            active.push(on);
        }
        let k = self.n_outputs();
        let mut grads = vec![Vec::new(); self.shapes.len()];
        for output in 0..k {
            let mut g = vec![0.0; k];
            g[output] = 1.0;
            for l in (0..self.shapes.len()).rev() {
                grads[l].push(g.clone());
                if l > 0 {
                    let width = self.shapes[l].columns();
                    g = (0..self.shapes[l].inputs)
                        .map(|i| {
                            let sum: f64 = (0..self.shapes[l].outputs)
                                .map(|o| g[o] * self.weights[l][o * width + i])
                                .sum();
                            sum * active[l - 1][i]
                        })
                        .collect();
                }
            }
        }
        Sides { inputs, grads }
    }

    /// The captures of all layers for spectra `x: [batch, D]`.
    pub fn captures(&self, x: &[f64], dtype: DType) -> Vec<LayerCapture> {
        let d = self.shapes[0].inputs;
        let stars: Vec<Sides> = x.chunks_exact(d).map(|x| self.sides(x)).collect();
        let (batch, k) = (stars.len(), self.n_outputs());
        let tensor = |values: Vec<f64>, shape: &[usize]| {
            Tensor::from_vec(values, shape, &Device::Cpu)
                .unwrap()
                .to_dtype(dtype)
                .unwrap()
        };
        let mut captures = Vec::new();
        for (l, shape) in self.shapes.iter().enumerate() {
            let input = stars
                .iter()
                .flat_map(|s| s.inputs[l][..shape.inputs].to_vec())
                .collect();
            let grad = (0..k)
                .flat_map(|k| stars.iter().flat_map(move |s| s.grads[l][k].clone()))
                .collect();
            captures.push(LayerCapture {
                layer: l,
                input: tensor(input, &[batch, 1, shape.inputs]),
                output_grad: tensor(grad, &[k, batch, 1, shape.outputs]),
            });
        }
        captures
    }

    /// Rows of `J_theta` over the weights of `layers`: `[batch * K][p]`, joint `[W | b]` order.
    pub fn jacobian(&self, x: &[f64], layers: &[usize]) -> Vec<Vec<f64>> {
        let mut rows = Vec::new();
        for x in x.chunks_exact(self.shapes[0].inputs) {
            let sides = self.sides(x);
            for k in 0..self.n_outputs() {
                let mut row = Vec::new();
                for &l in layers {
                    for g in &sides.grads[l][k] {
                        row.extend(sides.inputs[l].iter().map(|a| g * a));
                    }
                }
                rows.push(row);
            }
        }
        rows
    }

    /// `S_A` and `S_G` of a layer, with unit label precision.
    pub fn factors(&self, x: &[f64], layer: usize) -> (Vec<f64>, Vec<f64>) {
        let shape = &self.shapes[layer];
        let (n_in, n_out) = (shape.columns(), shape.outputs);
        let (mut a, mut g) = (vec![0.0; n_in * n_in], vec![0.0; n_out * n_out]);
        for x in x.chunks_exact(self.shapes[0].inputs) {
            let sides = self.sides(x);
            outer(&mut a, &sides.inputs[layer]);
            for grad in &sides.grads[layer] {
                outer(&mut g, grad);
            }
        }
        (a, g)
    }
}

fn outer(sum: &mut [f64], v: &[f64]) {
    for (i, a) in v.iter().enumerate() {
        for (j, b) in v.iter().enumerate() {
            sum[i * v.len() + j] += a * b;
        }
    }
}

/// `sum J^T J`, `[p, p]`.
pub fn gram(rows: &[Vec<f64>]) -> Vec<f64> {
    let p = rows[0].len();
    let mut h = vec![0.0; p * p];
    for row in rows {
        outer(&mut h, row);
    }
    h
}

/// `kron(g, a) / n`, `g: [m, m]`, `a: [k, k]`.
pub fn kron(g: &[f64], m: usize, a: &[f64], k: usize, n: f64) -> Vec<f64> {
    let p = m * k;
    let mut out = vec![0.0; p * p];
    for i in 0..p {
        for j in 0..p {
            out[i * p + j] = g[(i / k) * m + j / k] * a[(i % k) * k + j % k] / n;
        }
    }
    out
}

/// `H + delta I`.
pub fn with_prior(mut h: Vec<f64>, delta: f64) -> Vec<f64> {
    let p = (h.len() as f64).sqrt() as usize;
    for i in 0..p {
        h[i * p + i] += delta;
    }
    h
}

/// The inverse and `ln |det|` by Gauss-Jordan elimination with row pivoting.
pub fn inverse(matrix: &[f64]) -> (Vec<f64>, f64) {
    let p = (matrix.len() as f64).sqrt() as usize;
    let mut a = matrix.to_vec();
    let mut b = with_prior(vec![0.0; p * p], 1.0);
    let mut log_det = 0.0;
    for c in 0..p {
        let pivot = (c..p)
            .max_by(|&i, &j| a[i * p + c].abs().total_cmp(&a[j * p + c].abs()))
            .unwrap();
        for j in 0..p {
            a.swap(c * p + j, pivot * p + j);
            b.swap(c * p + j, pivot * p + j);
        }
        let d = a[c * p + c];
        log_det += d.abs().ln();
        for j in 0..p {
            a[c * p + j] /= d;
            b[c * p + j] /= d;
        }
        for i in (0..p).filter(|&i| i != c) {
            let f = a[i * p + c];
            if f != 0.0 {
                for j in 0..p {
                    a[i * p + j] -= f * a[c * p + j];
                    b[i * p + j] -= f * b[c * p + j];
                }
            }
        }
    }
    (b, log_det)
}

/// `J M J^T` for each star: `[batch, K, K]`.
pub fn predictive(rows: &[Vec<f64>], m: &[f64], k: usize) -> Vec<f64> {
    let p = rows[0].len();
    let mut out = Vec::new();
    for star in rows.chunks_exact(k) {
        for left in star {
            let solved: Vec<f64> = m
                .chunks_exact(p)
                .map(|row| row.iter().zip(left).map(|(m, l)| m * l).sum())
                .collect();
            for right in star {
                out.push(solved.iter().zip(right).map(|(s, r)| s * r).sum());
            }
        }
    }
    out
}

/// Largest difference, relative to the largest value.
pub fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .fold(0.0_f64, |m, (f, e)| m.max((f - e).abs()));
    assert!(found.iter().all(|v| v.is_finite()));
    worst / scale
}
