//! A small network whose weights are one vector, its maximum a posteriori by Levenberg-Marquardt, and its posterior.
//!
//! `E(theta) = sum_n |y_n - f(x_n)|^2 / (2 sigma^2) + 1/2 delta |theta|^2`; the step solves `(H + (delta + mu) I) step = -grad E`. Forward
//! and backward passes, sums and inverse are the library's; gradient and step control are written out here.

use std::collections::{BTreeMap, HashMap};

use fisherflow_curvature::{
    BlockCurvature, BlockOptions, BlockPlan, LabelPrecision, References, StructureKind, plan_blocks, structure_of,
};
use fisherflow_network::{
    Arithmetic, DenseShape, Description, InputJacobian, LayerCapture, Network, Precision as Products, to_safetensors,
};
use fisherflow_posterior::{Precision, invert, weights_part_of_blocks};

/// What is known of the labels beside the spectra.
#[derive(Clone, Copy)]
pub struct Knowledge {
    /// Standard deviation of the labels' noise.
    pub sigma: f64,
    /// Prior precision of every weight.
    pub prior: f64,
}

/// Dense layers of these widths with tanh between them.
pub struct SmallNet {
    shapes: Vec<DenseShape>,
}

/// A network at certain weights.
pub struct Fitted {
    /// `[W | b]` of layer after layer.
    pub theta: Vec<f64>,
    network: Network,
}

impl SmallNet {
    pub fn new(widths: &[usize]) -> Self {
        let shape = |(at, pair): (usize, &[usize])| DenseShape {
            name: format!("layers.{at}"),
            inputs: pair[0],
            outputs: pair[1],
            bias: true,
            shared: 1,
        };
        Self {
            shapes: widths.windows(2).enumerate().map(shape).collect(),
        }
    }

    pub fn n_weights(&self) -> usize {
        self.shapes.iter().map(DenseShape::n_weights).sum()
    }

    pub fn n_labels(&self) -> usize {
        self.shapes.last().unwrap().outputs
    }

    /// The network with these weights.
    pub fn at(&self, theta: &[f64]) -> Fitted {
        let mut arrays = Vec::new();
        let mut kinds = Vec::new();
        let mut rest = theta;
        for shape in &self.shapes {
            let (own, after) = rest.split_at(shape.n_weights());
            rest = after;
            let rows = || own.chunks_exact(shape.inputs + 1);
            let weight: Vec<f64> = rows().flat_map(|row| &row[..shape.inputs]).copied().collect();
            let bias: Vec<f64> = rows().map(|row| row[shape.inputs]).collect();
            arrays.push((
                format!("{}.weight", shape.name),
                vec![shape.outputs, shape.inputs],
                weight,
            ));
            arrays.push((format!("{}.bias", shape.name), vec![shape.outputs], bias));
            if !kinds.is_empty() {
                kinds.push("tanh".to_owned());
            }
            kinds.push("dense".to_owned());
        }
        let arrays = arrays
            .iter()
            .map(|(name, shape, values)| (name.as_str(), &shape[..], &values[..]));
        let bytes = to_safetensors(arrays, HashMap::new()).unwrap();
        let said = Description {
            layers: Some(kinds),
            ..Description::default()
        };
        let arithmetic = Arithmetic {
            precision: Products::F64,
            threads: 1,
        };
        Fitted {
            theta: theta.to_vec(),
            network: Network::from_safetensors(&bytes, &said, arithmetic).unwrap(),
        }
    }

    /// The blocks of a structure.
    pub fn blocks(&self, structure: StructureKind) -> Vec<BlockPlan> {
        plan_blocks(&self.shapes, structure, &BTreeMap::new(), BlockOptions::default()).unwrap()
    }

    /// A block's curvature: the library's sums over all spectra.
    fn curvature(&self, plan: &BlockPlan, captures: &[LayerCapture], n: usize, sigma: f64) -> BlockCurvature {
        let k = self.n_labels();
        let references = References::zero(&self.shapes, k);
        let structure = structure_of(plan, &references, k, 1).unwrap();
        let mut lam = vec![0.0; k * k];
        lam.iter_mut().step_by(k + 1).for_each(|l| *l = sigma.powi(-2));
        let mut sums = structure.empty().unwrap();
        let precision = LabelPrecision::constant(&lam, n).unwrap();
        structure.accumulate(captures, &precision, &mut sums).unwrap();
        structure.curvature(&sums).unwrap()
    }

    /// The posterior of every block at these weights, given `n` spectra `x`.
    pub fn posterior(
        &self,
        fitted: &Fitted,
        x: &[f64],
        known: Knowledge,
        structure: StructureKind,
    ) -> Vec<Box<dyn Precision>> {
        let captures = fitted.captures(x);
        let n = x.len() / self.shapes[0].inputs;
        let block = |plan: &BlockPlan| {
            let curvature = self.curvature(plan, &captures, n, known.sigma);
            invert(plan, curvature, known.prior, 1).unwrap()
        };
        self.blocks(structure).iter().map(block).collect()
    }

    /// The weights' part of the outputs' covariance for spectra `x`: `[n, K, K]`.
    pub fn covariance(&self, fitted: &Fitted, posterior: &[Box<dyn Precision>], x: &[f64]) -> Vec<f64> {
        let part = weights_part_of_blocks(posterior, &fitted.captures(x)).unwrap();
        part.covariance
    }

    /// The maximum a posteriori given labels `y` of spectra `x`, from a start nearby.
    pub fn fit(&self, x: &[f64], y: &[f64], known: Knowledge, start: &[f64]) -> Fitted {
        let lam = known.sigma.powi(-2);
        let n = x.len() / self.shapes[0].inputs;
        let plan = &self.blocks(StructureKind::Full)[0];
        let error = |fitted: &Fitted| {
            let misfit: f64 = fitted.outputs(x).iter().zip(y).map(|(f, y)| (f - y).powi(2)).sum();
            0.5 * lam * misfit + 0.5 * known.prior * fitted.theta.iter().map(|t| t * t).sum::<f64>()
        };
        let (mut fitted, mut mu) = (self.at(start), 1e-2);
        let mut now = error(&fitted);
        for _ in 0..500 {
            let captures = fitted.captures(x);
            let residual: Vec<f64> = fitted.outputs(x).iter().zip(y).map(|(f, y)| lam * (y - f)).collect();
            let mut downhill = self.transposed_jacobian_times(&captures, &residual);
            for (slope, t) in downhill.iter_mut().zip(&fitted.theta) {
                *slope -= known.prior * t;
            }
            let curvature = self.curvature(plan, &captures, n, known.sigma);
            let step = |mu: f64| {
                let damped = invert(plan, curvature.clone(), known.prior + mu, 1).unwrap();
                damped.solve(&downhill).unwrap()
            };
            // The squared distance to the maximum, in standard deviations of the posterior.
            if dot(&step(0.0), &downhill) < 1e-6 {
                return fitted;
            }
            let mut growth = 2.0;
            loop {
                let step = step(mu);
                let theta: Vec<f64> = fitted.theta.iter().zip(&step).map(|(t, s)| t + s).collect();
                let next = self.at(&theta);
                let after = error(&next);
                let expected = 0.5 * (dot(&step, &downhill) + mu * dot(&step, &step));
                let ratio = (now - after) / expected;
                if ratio > 0.0 {
                    // Nielsen 1999, IMM-REP-1999-05.
                    mu *= (1.0 - (2.0 * ratio - 1.0).powi(3)).max(1.0 / 3.0);
                    (fitted, now) = (next, after);
                    break;
                }
                mu *= growth;
                growth *= 2.0;
                assert!(mu < 1e12, "no step goes downhill from {now:e}");
            }
        }
        panic!("no maximum after 500 steps");
    }

    /// `sum_n sum_k r_nk J_nk`, `residual: [n, K]`.
    fn transposed_jacobian_times(&self, captures: &[LayerCapture], residual: &[f64]) -> Vec<f64> {
        let k = self.n_labels();
        let n = residual.len() / k;
        let mut sum = Vec::with_capacity(self.n_weights());
        for (capture, shape) in captures.iter().zip(&self.shapes) {
            let a: Vec<f64> = capture.input.flatten_all().unwrap().to_vec1().unwrap();
            let g: Vec<f64> = capture.output_grad.flatten_all().unwrap().to_vec1().unwrap();
            let (inputs, outputs) = (shape.inputs, shape.outputs);
            let mut own = vec![0.0; shape.n_weights()];
            for star in 0..n {
                for (output, row) in own.chunks_exact_mut(inputs + 1).enumerate() {
                    let by_label = |label: usize| residual[star * k + label] * g[(label * n + star) * outputs + output];
                    let pull: f64 = (0..k).map(by_label).sum();
                    for (sum, a) in row
                        .iter_mut()
                        .zip(a[star * inputs..(star + 1) * inputs].iter().chain(&[1.0]))
                    {
                        *sum += pull * a;
                    }
                }
            }
            sum.extend(own);
        }
        sum
    }
}

impl Fitted {
    /// `[n, K]`.
    pub fn outputs(&self, x: &[f64]) -> Vec<f64> {
        let forward = self.network.forward(x).unwrap();
        forward.output().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn captures(&self, x: &[f64]) -> Vec<LayerCapture> {
        let forward = self.network.forward(x).unwrap();
        self.network
            .backward(&forward, InputJacobian::NotWanted)
            .unwrap()
            .captures
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
