//! Blocks of every structure on a small network, each with the dense Hessian that its structure stands for.

use fisherflow_curvature::{BlockCurvature, BlockOptions, BlockPlan, CurvatureForm, Matrix, StructureKind};

use crate::Factor;
use crate::brute_force::{Mlp, Numbers, gram, kron};
use crate::eigen::decompose;
use crate::kronecker_bases;

pub const K: usize = 3;
pub const PRIOR: f64 = 0.3;

/// Eigenpairs of a low-rank block.
const RANK: usize = 8;

/// A block, and the dense Hessian that its structure stands for.
pub struct Case {
    pub plan: BlockPlan,
    pub curvature: BlockCurvature,
    pub h: Vec<f64>,
}

pub fn draw(n: usize, seed: u64) -> Vec<f64> {
    let mut numbers = Numbers::new(seed);
    (0..n).map(|_| numbers.next()).collect()
}

pub fn matrix(rows: usize, values: Vec<f64>) -> Matrix {
    Matrix {
        rows,
        cols: values.len() / rows,
        values,
    }
}

pub fn plan(mlp: &Mlp, structure: StructureKind, layers: &[usize]) -> BlockPlan {
    BlockPlan {
        id: 7,
        structure,
        layers: layers.to_vec(),
        shapes: layers.iter().map(|&l| mlp.shapes[l].clone()).collect(),
        options: BlockOptions::default(),
    }
}

pub fn case(mlp: &Mlp, x: &[f64], structure: StructureKind, layers: &[usize]) -> Case {
    let n = x.len() / mlp.shapes[0].inputs;
    let plan = plan(mlp, structure, layers);
    let p = plan.n_weights();
    let (form, h) = match structure {
        StructureKind::Full | StructureKind::Block => {
            let h = gram(&mlp.jacobian(x, layers));
            (CurvatureForm::Dense(matrix(p, h.clone())), h)
        }
        StructureKind::Kfac => {
            let shape = &plan.shapes[0];
            let (inputs, outputs) = (shape.columns(), shape.outputs);
            let (a, g) = mlp.factors(x, layers[0]);
            let h = kron(&g, outputs, &a, inputs, n as f64);
            let (a, g) = (matrix(inputs, a), matrix(outputs, g));
            (CurvatureForm::Kronecker { a, g }, h)
        }
        StructureKind::Ekfac => {
            let (outputs, inputs) = (plan.shapes[0].outputs, plan.shapes[0].columns());
            let factors = case(mlp, x, StructureKind::Kfac, layers).curvature;
            let bases = kronecker_bases(&plan, factors, 1).unwrap();
            let (u, v) = (bases.g_vectors().clone(), bases.a_vectors().clone());
            let q = kron(&u.values, outputs, &v.values, inputs, 1.0);
            // The squares of every row of the Jacobian in the eigenbasis, and back.
            let mut lambda = vec![0.0; p];
            for row in mlp.jacobian(x, layers) {
                for (e, lambda) in lambda.iter_mut().enumerate() {
                    let turned: f64 = (0..p).map(|i| q[i * p + e] * row[i]).sum();
                    *lambda += turned * turned;
                }
            }
            let h = (0..p * p)
                .map(|at| (0..p).map(|e| q[at / p * p + e] * lambda[e] * q[at % p * p + e]).sum())
                .collect();
            let form = CurvatureForm::Eigenbasis {
                a_vectors: v,
                g_vectors: u,
                eigenvalues: matrix(outputs, lambda),
            };
            (form, h)
        }
        StructureKind::Diagonal => {
            let dense = gram(&mlp.jacobian(x, layers));
            let diagonal: Vec<f64> = (0..p).map(|i| dense[i * p + i]).collect();
            let mut h = vec![0.0; p * p];
            for i in 0..p {
                h[i * p + i] = diagonal[i];
            }
            let form = CurvatureForm::Diagonal(matrix(plan.shapes[0].outputs, diagonal));
            (form, h)
        }
        StructureKind::Dual => panic!("a dual block has no sums: see dual/tests.rs"),
        StructureKind::LowRank => low_rank(&gram(&mlp.jacobian(x, layers)), p, RANK),
    };
    Case {
        plan,
        curvature: BlockCurvature {
            n_spectra: n as u64,
            form,
        },
        h,
    }
}

/// The leading `rank` eigenpairs of H and its diagonal, and the dense matrix that they stand for.
pub fn low_rank(h: &[f64], p: usize, rank: usize) -> (CurvatureForm, Vec<f64>) {
    let pairs = decompose(matrix(p, h.to_vec()), "layers", Factor::Dense, 1).unwrap();
    let mut vectors = Vec::new();
    for i in 0..p {
        vectors.extend((0..rank).map(|r| pairs.vectors[i * p + p - 1 - r]));
    }
    let values: Vec<f64> = (0..rank).map(|r| pairs.values[p - 1 - r]).collect();
    let mut dense = vec![0.0; p * p];
    for i in 0..p {
        for j in 0..p {
            dense[i * p + j] = if i == j {
                h[i * p + i]
            } else {
                (0..rank)
                    .map(|r| vectors[i * rank + r] * values[r] * vectors[j * rank + r])
                    .sum()
            };
        }
    }
    let form = CurvatureForm::LowRank {
        eigenvectors: matrix(p, vectors),
        eigenvalues: values,
        residuals: vec![0.0; rank],
        diagonal: (0..p).map(|i| h[i * p + i]).collect(),
    };
    (form, dense)
}

/// The middle layer has no bias.
pub fn small() -> (Mlp, Vec<f64>) {
    (Mlp::random(&[6, 7, 5, K], 11).without_bias(1), draw(6 * 20, 12))
}

/// Every structure on a layer, and `full` on two layers that are not neighbours and on all.
pub fn cases() -> Vec<Case> {
    let (mlp, x) = small();
    let mut cases = Vec::new();
    for structure in [
        StructureKind::Block,
        StructureKind::Kfac,
        StructureKind::Ekfac,
        StructureKind::Diagonal,
    ] {
        for layer in 0..3 {
            cases.push(case(&mlp, &x, structure, &[layer]));
        }
    }
    cases.push(case(&mlp, &x, StructureKind::LowRank, &[1]));
    cases.push(case(&mlp, &x, StructureKind::LowRank, &[0, 1, 2]));
    cases.push(case(&mlp, &x, StructureKind::Full, &[0, 2]));
    cases.push(case(&mlp, &x, StructureKind::Full, &[0, 1, 2]));
    cases
}
