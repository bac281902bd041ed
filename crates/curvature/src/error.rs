//! What can go wrong while curvature is planned, summed or re-formed.

use candle_core::DType;

use crate::StructureKind;

/// Why a curvature could not be planned, summed or re-formed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CurvatureError {
    /// A structure was asked for by the name of a layer that the network does not have.
    #[error("the network has no dense layer `{name}`; {nearest}")]
    UnknownLayer {
        /// The name asked for.
        name: String,
        /// The network's layer with a similar name, or its layers, in words.
        nearest: String,
    },
    /// There is no dense layer to plan blocks for.
    #[error("the network has no dense layer, so there is no curvature to sum")]
    NoLayers,
    /// Rows of the weight Jacobian of a large layer whose weights are shared by positions.
    #[error(
        "layer `{layer}` shares {n_weights} weights between positions, and the dual structure keeps their rows whole for up to {most}: \
         hold it as kfac, ekfac, diagonal or low_rank"
    )]
    SharedRows {
        /// The layer's name.
        layer: String,
        /// Its weights.
        n_weights: usize,
        /// Weights at most.
        most: usize,
    },
    /// A layer's bias was to be split off a block that is defined by its cross terms.
    #[error(
        "layer {layer} cannot be held as `{structure}` with its bias split off: such a block is defined by its cross terms; choose `block`"
    )]
    SplitBiasOfFull {
        /// The layer's name.
        layer: String,
        /// How it was to be held.
        structure: crate::StructureKind,
    },
    /// Eigenbases that do not have the sizes of the layer's Kronecker factors.
    #[error("{what} of layer {layer} have shape {found:?}, expected {expected:?}; compute them again for this network")]
    BasisShape {
        /// The layer's name.
        layer: String,
        /// `eigenvectors of S_A` or `eigenvectors of S_G`.
        what: &'static str,
        /// Their shape.
        found: [usize; 2],
        /// The shape that the layer asks for.
        expected: [usize; 2],
    },
    /// The sums of a block do not fit in memory.
    #[error(
        "block {block} held as `{structure}` needs {bytes} bytes for its sums, which cannot be allocated; \
         choose `kfac` or `diagonal` for its layers"
    )]
    TooLarge {
        /// The block's name.
        block: String,
        /// How it is held.
        structure: StructureKind,
        /// Bytes of its sums.
        bytes: u64,
    },
    /// Sums were asked of a structure that has none.
    #[error("block {block} is held as `dual`, which has no sums over spectra but the rows of its Jacobian")]
    NoSums {
        /// The block's name.
        block: String,
    },
    /// Rows of two different Jacobians were to be joined.
    #[error(
        "rows of a Jacobian over {found} weights and labels cannot be joined to rows over {expected}; they come from another block"
    )]
    RowsDiffer {
        /// Weights and labels of the rows joined to.
        expected: String,
        /// Weights and labels of the rows joined.
        found: String,
    },
    /// A block's layer is not among the captures.
    #[error("layer {layer} has no capture in this batch; a batch must carry the captures of all dense layers")]
    MissingCapture {
        /// The layer's name.
        layer: String,
    },
    /// A captured tensor has another shape than its layer.
    #[error("layer {layer}: captured {tensor} has shape {found:?}, expected {expected:?}")]
    CaptureShape {
        /// The layer's name.
        layer: String,
        /// `input` or `output_grad`.
        tensor: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the layer, the labels and the batch ask for.
        expected: Vec<usize>,
    },
    /// A captured tensor is neither f32 nor f64, or the two tensors of a capture differ.
    #[error("layer {layer}: captured {tensor} is {found:?}; captures are both f32 or both f64")]
    CaptureType {
        /// The layer's name.
        layer: String,
        /// `input` or `output_grad`.
        tensor: &'static str,
        /// Its type.
        found: DType,
    },
    /// The device did not sum a capture, or hand out its values.
    #[error(
        "layer {layer}: a capture could not be summed or read on its device; where memory is short there, lower compute.batch"
    )]
    CaptureValues {
        /// The layer's name.
        layer: String,
        /// The tensor library's error.
        #[source]
        source: candle_core::Error,
    },
    /// Label covariances or precisions that are not `batch` square matrices of the network's labels.
    #[error("{what} has {found} values, expected {expected}")]
    LabelShape {
        /// What was given.
        what: &'static str,
        /// Number of values.
        found: usize,
        /// Number of values that the labels and the batch ask for.
        expected: usize,
    },
    /// A covariance or precision of labels that is not symmetric and positive (a precision may be singular, a covariance may not).
    #[error(
        "{what} of spectrum {spectrum} of the batch is not symmetric and positive definite (at label {label}); \
         give a larger noise covariance or drop the spectrum"
    )]
    LabelMatrix {
        /// `label covariance` or `label precision`.
        what: &'static str,
        /// Row in the batch.
        spectrum: usize,
        /// The label whose pivot fails, counted from 0.
        label: usize,
    },
    /// The references do not have the sizes of the network's layers.
    #[error(
        "reference {what} of layer {layer} has {found} values, expected {expected}; compute the references again for this network"
    )]
    ReferenceShape {
        /// The layer's name.
        layer: String,
        /// `input mean` or `gradient mean`.
        what: &'static str,
        /// Number of values.
        found: usize,
        /// Number of values that the layer asks for.
        expected: usize,
    },
    /// A reference that is NaN or infinite.
    #[error(
        "reference {what} of layer {layer} is not finite over {n_spectra} spectra; look for a spectrum whose activations overflow"
    )]
    ReferenceNotFinite {
        /// The layer's name.
        layer: String,
        /// `input mean` or `gradient mean`.
        what: &'static str,
        /// Number of spectra summed over.
        n_spectra: u64,
    },
    /// Sums of another block than the structure's.
    #[error(
        "sums of block {found_block} (`{found_structure}`, {found_length} values) are no sums of block {block} \
         (`{structure}`, {length} values); they come from another network or other settings"
    )]
    SumsDiffer {
        /// Id of the structure's block.
        block: usize,
        /// How it is held.
        structure: StructureKind,
        /// Number of values in its sums.
        length: usize,
        /// Id of the block that the sums are of.
        found_block: usize,
        /// How that one is held.
        found_structure: StructureKind,
        /// Number of values in the sums.
        found_length: usize,
    },
    /// Reference sums of two different networks were to be added.
    #[error(
        "reference sums of {found} values cannot be added to reference sums of {expected} values; they come from another network"
    )]
    ReferenceSumsDiffer {
        /// Number of values added to.
        expected: usize,
        /// Number of values added.
        found: usize,
    },
    /// Sums of products with other vectors, or of other layers.
    #[error(
        "sums of {found} values of products with vectors do not fit sums of {expected} values: other layers or directions"
    )]
    ProductSumsDiffer {
        /// Number of values added to.
        expected: usize,
        /// Number of values added.
        found: usize,
    },
    /// The true Hessian has no form but the dense one.
    #[error(
        "block {block} is held as `{structure}`, and the true Hessian of the loss is dense: choose `full` or `block`, or the ggn"
    )]
    DenseAlone {
        /// The block's name.
        block: String,
        /// How it is held.
        structure: StructureKind,
    },
    /// A `low_rank` block whose eigenpairs were not found.
    #[error("block {block} is held as `low_rank`, and its eigenpairs were never computed")]
    NoEigenpairs {
        /// The block's name.
        block: String,
    },
    /// The eigenvalues of a projection did not converge.
    #[error(
        "the eigenvalues of a projection of size {size} do not converge: no step was done, or a product was not finite; compute in f64"
    )]
    Eigenvalues {
        /// Its size.
        size: usize,
    },
    /// A product over the network.
    #[error(transparent)]
    Network(#[from] fisherflow_network::NetworkError),
    /// A block's sums hold a NaN or an infinity.
    #[error(
        "the {part} of block {block} is not finite at layer {layer} after {n_spectra} spectra; \
         look for a spectrum whose activations overflow, or compute in f64"
    )]
    NonFiniteSums {
        /// The block's name.
        block: String,
        /// The layer's name.
        layer: String,
        /// Which of the sums.
        part: &'static str,
        /// Number of spectra summed over.
        n_spectra: u64,
    },
}
