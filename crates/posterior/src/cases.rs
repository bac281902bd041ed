//! Blocks of every structure on a small network, each with the dense Hessian that its structure stands for.

use fisherflow_curvature::{BlockCurvature, BlockPlan, CurvatureForm, Matrix, StructureKind};

use crate::brute_force::{Mlp, Numbers, gram, kron};

pub const K: usize = 3;
pub const PRIOR: f64 = 0.3;

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
            let (inputs, outputs) = (shape.inputs + 1, shape.outputs);
            let (a, g) = mlp.factors(x, layers[0]);
            let h = kron(&g, outputs, &a, inputs, n as f64);
            let (a, g) = (matrix(inputs, a), matrix(outputs, g));
            (CurvatureForm::Kronecker { a, g }, h)
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

pub fn small() -> (Mlp, Vec<f64>) {
    (Mlp::random(&[6, 7, 5, K], 11), draw(6 * 20, 12))
}

/// Every structure on a layer, and `full` on two layers that are not neighbours and on all.
pub fn cases() -> Vec<Case> {
    let (mlp, x) = small();
    let mut cases = Vec::new();
    for structure in [StructureKind::Block, StructureKind::Kfac, StructureKind::Diagonal] {
        for layer in 0..3 {
            cases.push(case(&mlp, &x, structure, &[layer]));
        }
    }
    cases.push(case(&mlp, &x, StructureKind::Full, &[0, 2]));
    cases.push(case(&mlp, &x, StructureKind::Full, &[0, 1, 2]));
    cases
}
