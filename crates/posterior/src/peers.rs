//! A block in the conventions of other programs: which loss, which factor on which matrix, which order of weights.
//!
//! Ours is `H = sum_n J_n^T Lam_n J_n`, the Hessian of `E = sum_n 1/2 r_n^T Lam_n r_n`, and `P = H + delta I`. With labels whitened by the
//! noise (`Lam = I`, as every peer has it), N spectra and K labels:
//!
//! | peer | loss | H | S_A | S_G | biases | delta |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | laplace-torch | 1/2 sum | 1 | 1 / (N sqrt 2) | sqrt 2 | apart | as it is: `prior_precision` |
//! | backpack | sum of squares | 2 | 1 / N | 2 | apart | none |
//! | backpack, mean | `MSELoss()` | 2 / (N K) | 1 / N | 2 / (N K) | apart | none |
//! | curvlinops | sum of squares | 2 | 1 / N | 2 | last column | exact damping 2 delta |
//! | curvlinops, mean | `MSELoss()` | 2 / (N K) | 1 / N | 2 / (N K) | last column | exact damping 2 delta / (N K) |
//! | kronfluence | 1/2 sum | 1 | 1 | 1 | last column | damping delta / N |
//! | scipy | sum of squares | `hess_inv` = P^-1 / 2 | | | torch's order | in the objective |
//! | scipy, mean | `MSELoss()` | `hess_inv` = (N K / 2) P^-1 | | | torch's order | in the objective |
//!
//! A product of two factors is the peer's block (kronfluence divides by N itself); where biases are apart their block is `S_G` times the
//! factor on H, and the elements of `S_A` between bias and weights are dropped, as these peers do. Dense matrices are in the order of
//! torch's `parameters()`: of each layer W row by row, then b.
//!
//! Source: what each peer returned on one network, as the tests compare it; and the peers' own documentation of `GGN`, `KFAC` and `Kron`.

use std::fmt;
use std::str::FromStr;

use fisherflow_curvature::{BlockCurvature, BlockPlan, CurvatureForm, Matrix};
use fisherflow_network::DenseShape;

use crate::structures::matrices::{check_curvature, single_layer};
use crate::{PosteriorError, Precision};

/// Weights of a block whose inverse is formed for scipy, at most: 2 GiB of doubles.
const LARGEST_DENSE: usize = 16_384;

/// Another program for curvature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// laplace-torch's `KronLaplace`, `DiagLaplace` and `FullLaplace`, whatever its backend.
    LaplaceTorch,
    /// curvlinops' `KFACLinearOperator` (type-2, joint biases) and `GGNLinearOperator`.
    Curvlinops,
    /// kronfluence's raw sums.
    Kronfluence,
    /// BackPACK's `KFLR` and `DiagGGNExact`.
    Backpack,
    /// `hess_inv` of `scipy.optimize.minimize`.
    Scipy,
}

/// Whether the peer's loss sums the squared residuals over spectra and labels, or averages them over both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The sum.
    Sum,
    /// The mean, as torch's `MSELoss()` and Keras' `mse`.
    Mean,
}

/// A peer's convention on a given number of spectra and labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convention {
    peer: Peer,
    reduction: Reduction,
    n_spectra: u64,
    n_labels: usize,
}

/// An array of a peer's convention, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Layer or block, and what it is.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f64>,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::LaplaceTorch,
        Self::Curvlinops,
        Self::Kronfluence,
        Self::Backpack,
        Self::Scipy,
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LaplaceTorch => "laplace-torch",
            Self::Curvlinops => "curvlinops",
            Self::Kronfluence => "kronfluence",
            Self::Backpack => "backpack",
            Self::Scipy => "scipy",
        }
    }

    /// The reductions that it can be run with, the usual one first.
    #[must_use]
    pub fn reductions(self) -> &'static [Reduction] {
        match self {
            Self::LaplaceTorch | Self::Kronfluence => &[Reduction::Sum],
            Self::Curvlinops | Self::Backpack => &[Reduction::Sum, Reduction::Mean],
            Self::Scipy => &[Reduction::Mean, Reduction::Sum],
        }
    }

    /// Whether it wants the inverse of blocks, and not the sums.
    #[must_use]
    pub fn wants_inverse(self) -> bool {
        self == Self::Scipy
    }

    /// Whether a layer's biases are a block of their own.
    fn splits_biases(self) -> bool {
        matches!(self, Self::LaplaceTorch | Self::Backpack)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        let found = Self::ALL.into_iter().find(|peer| peer.as_str() == name);
        found.ok_or_else(|| format!("no convention of {name} is known: {}", known()))
    }
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
        })
    }
}

impl Convention {
    /// The convention of a peer over `n_spectra` spectra with `n_labels` labels.
    ///
    /// # Errors
    /// If the peer is never run with that reduction, in words.
    pub fn new(peer: Peer, reduction: Reduction, n_spectra: u64, n_labels: usize) -> Result<Self, String> {
        if !peer.reductions().contains(&reduction) {
            return Err(format!(
                "{peer} is not run with the {reduction} of the squared residuals: leave the reduction out"
            ));
        }
        Ok(Self {
            peer,
            reduction,
            n_spectra,
            n_labels,
        })
    }

    /// What the peer's Hessian is of ours.
    #[must_use]
    pub fn of_hessian(&self) -> f64 {
        match (self.peer, self.reduction) {
            (Peer::LaplaceTorch | Peer::Kronfluence, _) => 1.0,
            (_, Reduction::Sum) => 2.0,
            (_, Reduction::Mean) => 2.0 / (self.n_spectra as f64 * self.n_labels as f64),
        }
    }

    /// What the peer's factors are of `S_A` and `S_G`, where `n_terms` divides their product: the spectra, times the positions of each that
    /// share the weights.
    #[must_use]
    pub fn of_factors(&self, n_terms: f64) -> (f64, f64) {
        let n = n_terms;
        match self.peer {
            Peer::LaplaceTorch => (1.0 / (n * 2.0_f64.sqrt()), 2.0_f64.sqrt()),
            Peer::Kronfluence => (1.0, 1.0),
            Peer::Backpack | Peer::Curvlinops | Peer::Scipy => (1.0 / n, self.of_hessian()),
        }
    }

    /// The prior precision as the peer takes it: the damping of its own blocks that has the same posterior, up to the factor on H.
    #[must_use]
    pub fn damping(&self, prior_precision: f64) -> f64 {
        match self.peer {
            Peer::Kronfluence => prior_precision / self.n_spectra as f64,
            _ => self.of_hessian() * prior_precision,
        }
    }

    /// The loss that the peer's arrays are the curvature of.
    #[must_use]
    pub fn loss(&self) -> &'static str {
        match (self.peer, self.reduction) {
            (Peer::LaplaceTorch | Peer::Kronfluence, _) => {
                "1/2 sum_n sum_k (f_k - y_k)^2, labels whitened by the noise"
            }
            (_, Reduction::Sum) => "sum_n sum_k (f_k - y_k)^2, labels whitened by the noise: MSELoss(reduction='sum')",
            (_, Reduction::Mean) => {
                "1/(N K) sum_n sum_k (f_k - y_k)^2, labels whitened by the noise: MSELoss(reduction='mean')"
            }
        }
    }

    /// A block's sums as the peer has them.
    ///
    /// # Errors
    /// If the curvature is not the plan's, or the peer has no form for its structure.
    pub fn curvature(&self, plan: &BlockPlan, curvature: &BlockCurvature) -> Result<Vec<NamedTensor>, PosteriorError> {
        check_curvature(plan, curvature)?;
        let block = plan.name();
        let factor = self.of_hessian();
        if self.peer.wants_inverse() {
            return Err(self.no_form(plan, "it takes the inverse alone"));
        }
        match &curvature.form {
            CurvatureForm::Dense(_) if self.peer == Peer::Kronfluence => {
                Err(self.no_form(plan, "hold it as kfac, or export it to curvlinops"))
            }
            CurvatureForm::Dense(h) => Ok(vec![square(
                &format!("{block}.ggn"),
                in_torch_order(h, &plan.shapes, factor),
            )]),
            CurvatureForm::Kronecker { a, g } => {
                let n_terms = curvature.n_spectra * plan.terms_a_spectrum();
                let (of_a, of_g) = self.of_factors(n_terms as f64);
                let names = match self.peer {
                    Peer::Kronfluence => ("activation_covariance", "gradient_covariance"),
                    _ => ("kron_a", "kron_g"),
                };
                if !self.peer.splits_biases() {
                    return Ok(vec![
                        square(&format!("{block}.{}", names.0), scaled(&a.values, of_a)),
                        square(&format!("{block}.{}", names.1), scaled(&g.values, of_g)),
                    ]);
                }
                let shape = single_layer(plan)?;
                let weights = a.values.chunks_exact(shape.columns()).take(shape.inputs);
                let weights: Vec<f64> = weights.flat_map(|row| &row[..shape.inputs]).copied().collect();
                let mut tensors = vec![
                    square(&format!("{block}.weight.{}", names.0), scaled(&weights, of_a)),
                    square(&format!("{block}.weight.{}", names.1), scaled(&g.values, of_g)),
                ];
                if shape.bias {
                    let of_biases = scaled(&g.values, factor);
                    tensors.push(square(&format!("{block}.bias.{}", names.1), of_biases));
                }
                Ok(tensors)
            }
            CurvatureForm::Eigenbasis {
                a_vectors,
                g_vectors,
                eigenvalues,
            } => {
                let (names, of_eigenvalues) = match self.peer {
                    Peer::Curvlinops => (["a_eigenvectors", "g_eigenvectors", "eigenvalues"], factor),
                    Peer::Kronfluence => (
                        ["activation_eigenvectors", "gradient_eigenvectors", "lambda_matrix"],
                        1.0,
                    ),
                    Peer::LaplaceTorch | Peer::Backpack | Peer::Scipy => {
                        return Err(self.no_form(plan, "hold it as kfac, or export it to curvlinops or kronfluence"));
                    }
                };
                Ok(vec![
                    square(&format!("{block}.{}", names[0]), a_vectors.values.clone()),
                    square(&format!("{block}.{}", names[1]), g_vectors.values.clone()),
                    NamedTensor {
                        name: format!("{block}.{}", names[2]),
                        shape: vec![eigenvalues.rows, eigenvalues.cols],
                        values: scaled(&eigenvalues.values, of_eigenvalues),
                    },
                ])
            }
            CurvatureForm::LowRank { .. } => Err(self.no_form(plan, "export its inverse to scipy, or hold it as full")),
            CurvatureForm::Diagonal(d) if self.peer == Peer::Kronfluence => Ok(vec![NamedTensor {
                name: format!("{block}.lambda_matrix"),
                shape: vec![d.rows, d.cols],
                values: scaled(&d.values, factor),
            }]),
            CurvatureForm::Diagonal(d) => {
                let inputs = single_layer(plan)?.inputs;
                let rows = || d.values.chunks_exact(d.cols);
                let weights: Vec<f64> = rows().flat_map(|row| &row[..inputs]).copied().collect();
                let biases: Vec<f64> = rows().flat_map(|row| &row[inputs..]).copied().collect();
                let mut tensors = vec![NamedTensor {
                    name: format!("{block}.weight.diagonal"),
                    shape: vec![d.rows, inputs],
                    values: scaled(&weights, factor),
                }];
                if d.cols > inputs {
                    tensors.push(NamedTensor {
                        name: format!("{block}.bias.diagonal"),
                        shape: vec![d.rows],
                        values: scaled(&biases, factor),
                    });
                }
                Ok(tensors)
            }
        }
    }

    /// A block's inverse as scipy has it: `hess_inv`, `[p, p]`, of the objective with the prior in it, in torch's order; of any structure.
    ///
    /// # Errors
    /// If the block is too large for a dense matrix, or the peer takes no inverse.
    pub fn inverse(&self, plan: &BlockPlan, precision: &dyn Precision) -> Result<Vec<NamedTensor>, PosteriorError> {
        if !self.peer.wants_inverse() {
            return Err(self.no_form(plan, "it takes the sums"));
        }
        if plan.n_weights() > LARGEST_DENSE {
            return Err(self.no_form(
                plan,
                "it is too large for a dense inverse; ask `fisherflow inverse` for the elements of interest",
            ));
        }
        let order = torch_order(&plan.shapes);
        let dense = precision.elements(&order, &order)?;
        let values = scaled(&dense.values, 1.0 / self.of_hessian());
        Ok(vec![square(&format!("{}.hess_inv", plan.name()), values)])
    }

    /// Why a block that has no sums cannot be exported as such.
    #[must_use]
    pub fn without_sums(&self, plan: &BlockPlan) -> PosteriorError {
        self.no_form(
            plan,
            "it has no sums over spectra: export its inverse to scipy, or hold it as full",
        )
    }

    fn no_form(&self, plan: &BlockPlan, remedy: &'static str) -> PosteriorError {
        PosteriorError::NoPeerForm {
            peer: self.peer,
            block: plan.name(),
            structure: plan.structure,
            remedy,
        }
    }
}

/// For each weight in torch's order (of each layer W row by row, then b), its place in ours.
fn torch_order(shapes: &[DenseShape]) -> Vec<usize> {
    let mut order = Vec::new();
    let mut start = 0;
    for shape in shapes {
        let place = |output: usize, input: usize| start + output * shape.columns() + input;
        order.extend((0..shape.outputs).flat_map(|o| (0..shape.inputs).map(move |i| place(o, i))));
        if shape.bias {
            order.extend((0..shape.outputs).map(|o| place(o, shape.inputs)));
        }
        start += shape.n_weights();
    }
    order
}

fn in_torch_order(h: &Matrix, shapes: &[DenseShape], factor: f64) -> Vec<f64> {
    let order = torch_order(shapes);
    let row = |&i: &usize| order.iter().map(move |j| factor * h.values[i * h.cols + j]);
    order.iter().flat_map(row).collect()
}

fn scaled(values: &[f64], factor: f64) -> Vec<f64> {
    values.iter().map(|v| factor * v).collect()
}

fn square(name: &str, values: Vec<f64>) -> NamedTensor {
    let side = values.len().isqrt();
    NamedTensor {
        name: name.to_owned(),
        shape: vec![side, side],
        values,
    }
}
