//! Why a posterior, a covariance or an error budget cannot be had.

use fisherflow_curvature::StructureKind;

use crate::Factor;

/// What can go wrong between the sums over spectra and the error budget.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PosteriorError {
    /// The prior precision is no precision.
    #[error("the prior precision of block {block} is {value}: it must be a finite number, 0 or larger")]
    Prior {
        /// The block's name.
        block: String,
        /// What was given.
        value: f64,
    },
    /// A block's eigenvalues are not all known: it cannot be evaluated at many prior precisions.
    #[error(
        "block {block} holds leading eigenpairs alone: give its prior precision, or hold its layers by another structure"
    )]
    NoScan {
        /// The block's name.
        block: String,
    },
    /// A dense block has no Cholesky factor, or only one that is rounding error.
    #[error(
        "block {block} with prior precision {prior_precision} is singular: the pivot of weight {pivot} of {n_weights} ({layer}, output \
         {output}, {input}) is 0 to rounding. Raise the prior precision, sum over more spectra, or hold the layer by another structure"
    )]
    Singular {
        /// The block's name.
        block: String,
        /// The prior precision that was added.
        prior_precision: f64,
        /// Where the factorisation stopped, in the block's order of weights.
        pivot: usize,
        /// Size of the block.
        n_weights: usize,
        /// The layer of that weight.
        layer: String,
        /// The layer's output that the weight leads to.
        output: usize,
        /// The layer's input that the weight comes from, in words.
        input: String,
    },
    /// A dense block that is indefinite even with its prior, as a true Hessian may be.
    #[error(
        "block {block} with prior precision {prior_precision} is indefinite: its smallest eigenvalue is {smallest:e}, and the pivot of weight \
         {pivot} of {n_weights} ({place}) fails. Raise the prior precision above {needed:e}, or choose \
         curvature.kind = \"ggn\", which has no negative curvature"
    )]
    NegativeCurvature {
        /// The block's name.
        block: String,
        /// The prior precision that was added.
        prior_precision: f64,
        /// The smallest eigenvalue of `H + delta I`.
        smallest: f64,
        /// The prior precision above which it would be positive.
        needed: f64,
        /// Where the factorisation stopped, in the block's order of weights.
        pivot: usize,
        /// Size of the block.
        n_weights: usize,
        /// Layer, output and input of that weight, in words.
        place: String,
    },
    /// A Kronecker or diagonal block without prior has an eigenvalue that is 0 to rounding.
    #[error(
        "block {block} with prior precision {prior_precision} is singular: eigenvalues run from {smallest:e} to {largest:e}. Raise the \
         prior precision, sum over more spectra, or hold the layer by another structure"
    )]
    SingularSpectrum {
        /// The block's name.
        block: String,
        /// The prior precision that was added.
        prior_precision: f64,
        /// The smallest eigenvalue of the block.
        smallest: f64,
        /// The largest.
        largest: f64,
    },
    /// A sum that must be positive semidefinite is not, by more than rounding makes.
    #[error(
        "{factor} of block {block} is no sum of squares: its eigenvalues run from {smallest:e} to {largest:e}; the sums are damaged, \
         compute them again"
    )]
    Indefinite {
        /// The block's name.
        block: String,
        /// Which matrix.
        factor: Factor,
        /// Its smallest eigenvalue.
        smallest: f64,
        /// Its largest.
        largest: f64,
    },
    /// A structure whose eigenvalues are not to be had.
    #[error(
        "block {block} is held as {structure:?}, whose eigenvalues are not computed: no evidence can choose its prior precision; give it as a \
         number"
    )]
    NoSpectrum {
        /// The block's name.
        block: String,
        /// How it is held.
        structure: StructureKind,
    },
    /// The marginal likelihood has no maximum at a finite prior precision above 0.
    #[error("no prior precision maximises the evidence: {reason}. Give the prior precision as a number")]
    NoEvidence {
        /// Why.
        reason: &'static str,
    },
    /// A Kronecker factor whose count of terms is not that of its spectra.
    #[error(
        "the last diagonal element of kron_a of block {block} is {found}: it counts terms, of which {n_spectra} spectra have {expected}; \
         the sums are damaged, or of another network, compute them again"
    )]
    Terms {
        /// The block's name.
        block: String,
        /// What was found.
        found: f64,
        /// The terms of the spectra.
        expected: u64,
        /// Number of spectra summed over.
        n_spectra: u64,
    },
    /// A matrix holds a NaN or an infinity.
    #[error(
        "row {row} of {factor} of block {block} holds a value that is not finite: the sums are damaged, or a network's output overflowed"
    )]
    NotFinite {
        /// The block's name.
        block: String,
        /// Which matrix.
        factor: Factor,
        /// Its first row with such a value.
        row: usize,
    },
    /// An eigendecomposition did not converge.
    #[error("the eigenvalues of {factor} of block {block} did not converge")]
    Eigenvalues {
        /// The block's name.
        block: String,
        /// Which matrix.
        factor: Factor,
    },
    /// The threads of an eigenproblem could not be started.
    #[error("the threads of an eigenproblem could not be started: give compute.threads a smaller number")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A factorisation's workspace does not fit.
    #[error(
        "no memory for the {bytes} bytes of workspace that block {block} needs: hold the layer by another structure"
    )]
    Memory {
        /// The block's name.
        block: String,
        /// How much was asked for.
        bytes: usize,
    },
    /// A curvature, or a set of matrices, of another structure than the plan says.
    #[error("block {block} is planned as {planned:?}, but its curvature is {found}")]
    Form {
        /// The block's name.
        block: String,
        /// What the plan says.
        planned: StructureKind,
        /// What was handed over.
        found: &'static str,
    },
    /// A plan of one structure with a number of layers that this structure cannot cover.
    #[error("block {block} covers {layers} layers, but {structure:?} holds one layer a block")]
    Layers {
        /// The block's name.
        block: String,
        /// How it is held.
        structure: StructureKind,
        /// Number of layers in its plan.
        layers: usize,
    },
    /// The stored facts of a block belong to another one.
    #[error("the stored facts of block {block} have {what} {found}, expected {expected}")]
    Info {
        /// The block's name.
        block: String,
        /// Which fact.
        what: &'static str,
        /// What the plan says.
        expected: String,
        /// What is stored.
        found: String,
    },
    /// A matrix, vector or tensor of the wrong size.
    #[error("{what} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// What it is, with the layer's or block's name.
        what: String,
        /// What it should be.
        expected: Vec<usize>,
        /// What it is.
        found: Vec<usize>,
    },
    /// A weight that the block does not have.
    #[error("block {block} has no weight {index}: its {n_weights} weights are counted from 0")]
    NoWeight {
        /// The block's name.
        block: String,
        /// The index that was asked for.
        index: usize,
        /// How many weights there are.
        n_weights: u64,
    },
    /// A block in a structure that another program has no form for.
    #[error("{peer} has no form for block {block}, which is held as {structure}: {remedy}")]
    NoPeerForm {
        /// The other program.
        peer: crate::Peer,
        /// The block's name.
        block: String,
        /// How it is held.
        structure: StructureKind,
        /// What can be done.
        remedy: &'static str,
    },
    /// A layer of the block is not among the captures.
    #[error("layer {layer} (dense layer {index}) is not among the {found} captures of the batch")]
    MissingCapture {
        /// The layer's name.
        layer: String,
        /// Its position in the network.
        index: usize,
        /// How many captures there are.
        found: usize,
    },
    /// Captures of a type that products are not made in.
    #[error("{what} is of type {found}, expected f32 or f64 throughout")]
    Type {
        /// Which tensor.
        what: String,
        /// Its type.
        found: String,
    },
    /// A name of a matrix that this version does not know.
    #[error("unknown factor {name:?}: expected one of {known}")]
    UnknownFactor {
        /// The name.
        name: String,
        /// The known names.
        known: String,
    },
    /// A matrix of the block is missing.
    #[error("block {block} has no matrix {factor} of layer {layer}")]
    MissingMatrix {
        /// The block's name.
        block: String,
        /// The layer's (a full block's: the block's) name.
        layer: String,
        /// Which matrix.
        factor: Factor,
    },
    /// A matrix that the block does not have, or a second one of the same name.
    #[error(
        "block {block} has one matrix too many: {factor} of layer {layer}, which its structure does not have, or has once"
    )]
    UnexpectedMatrix {
        /// The block's name.
        block: String,
        /// The layer it names.
        layer: String,
        /// Which matrix.
        factor: Factor,
    },
    /// A variance or covariance that is none.
    #[error("row {row} of {what} holds {value}: {remedy}")]
    Value {
        /// Which array.
        what: &'static str,
        /// The spectrum, counted from the start of the batch.
        row: usize,
        /// The value.
        value: f64,
        /// What it must be.
        remedy: &'static str,
    },
    /// Edges of label cells that make no cells.
    #[error("the edges of label {label} (counted from 0) make no cells: {reason}")]
    Edges {
        /// The label.
        label: usize,
        /// Why.
        reason: &'static str,
    },
    /// Nothing was summed.
    #[error(
        "no held-out spectrum with all its labels: {skipped} were left out because a label or a covariance is missing"
    )]
    NoResiduals {
        /// How many were left out.
        skipped: u64,
    },
    /// Too few held-out residuals to find a covariance of labels.
    #[error("{n} held-out spectra with residuals do not tell the covariance of {n_labels} labels")]
    FewResiduals {
        /// How many there are.
        n: u64,
        /// How many labels.
        n_labels: usize,
    },
    /// What is known of the errors of a held-out spectrum is no covariance.
    #[error("the known errors of a held-out spectrum are no covariance: they are not positive semidefinite")]
    NoCovariance,
    /// A label is met exactly, so its noise has no scale.
    #[error(
        "label {label} (counted from 0) has residual 0 for all {n} held-out spectra: it carries no information on the noise; give the \
         noise as a covariance"
    )]
    NoNoise {
        /// The label.
        label: usize,
        /// Number of spectra.
        n: u64,
    },
    /// A small covariance could not be decomposed.
    #[error("{what} holds a value that is not finite")]
    Covariance {
        /// Which covariance.
        what: &'static str,
    },
    /// A dual block's prior precision is 0, or lost in the rounding of its Gram matrix.
    #[error(
        "block {block} held as dual is singular with prior precision {prior_precision}: its Gram matrix reaches {largest:e} on the diagonal, \
         and the prior precision must be above {least:e} to be seen beside it. Raise the prior precision, or hold its layers by another \
         structure"
    )]
    DualPrior {
        /// The block's name.
        block: String,
        /// What was given.
        prior_precision: f64,
        /// The largest value on the diagonal of Q.
        largest: f64,
        /// What the prior precision must exceed.
        least: f64,
    },
    /// A dual block's variance is the difference of two numbers that are the same to rounding.
    #[error(
        "a variance of block {block} with prior precision {prior_precision} comes out as {value:e}: it is a difference that rounding swamps, \
         as the largest eigenvalue may be {condition:.1e} times the smallest. Raise the prior precision, or hold its layers by another structure"
    )]
    Cancelled {
        /// The block's name.
        block: String,
        /// The prior precision that was added.
        prior_precision: f64,
        /// The condition of P, at most.
        condition: f64,
        /// The variance.
        value: f64,
    },
    /// The diagonal of a dual block's inverse, which takes more than all the rest.
    #[error(
        "the marginal variance of each weight of block {block}, which is held as dual, takes {operations:.1e} operations, and more than \
         {affordable:.0e} are not spent on it: ask for the elements of some weights with --rows and --cols, or hold its layers by another \
         structure"
    )]
    Unaffordable {
        /// The block's name.
        block: String,
        /// What it would take.
        operations: f64,
        /// What it may take.
        affordable: f64,
    },
    /// Rows or tiles of a dual block cannot be had from where they are kept.
    #[error("a part of a dual block cannot be had")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The rows of a Jacobian.
    #[error(transparent)]
    Curvature(#[from] fisherflow_curvature::CurvatureError),
    /// The device refused.
    #[error("the device that holds the captures refused")]
    Device(#[from] candle_core::Error),
    /// The network could not give its Jacobian.
    #[error(transparent)]
    Network(#[from] fisherflow_network::NetworkError),
}
