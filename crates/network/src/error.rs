//! What can be wrong with a network, its file, or what it is asked to do.

use thiserror::Error;

/// Any failure of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The bytes are not a safetensors file.
    #[error("not a safetensors file, or a damaged one: {reason}")]
    NotSafetensors {
        /// What the reader met.
        reason: String,
    },
    /// The metadata entry `fisherflow.network` cannot be read.
    #[error("the file's metadata `fisherflow.network` is not a description of a network")]
    Metadata(#[source] serde_json::Error),
    /// The metadata entry is of a version this program does not know.
    #[error("the file describes its network in version {found}; this program knows version {known}: update it")]
    MetadataVersion {
        /// The file's version.
        found: u64,
        /// The newest version known.
        known: u64,
    },
    /// A tensor that the description needs is not there.
    #[error("the network file has no tensor `{name}`, and every dense or conv1d layer needs a weight; {nearest}")]
    MissingTensor {
        /// The tensor's name.
        name: String,
        /// The nearest name that is there, or those that are, in words.
        nearest: String,
    },
    /// A tensor that no layer uses.
    #[error(
        "tensor `{name}` {shape:?} of the network file belongs to no dense or conv1d layer; other layers have no tensors here"
    )]
    StrayTensor {
        /// The tensor's name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Tensors of a layer that normalises.
    #[error("the network file holds {tensors}: {what}")]
    Normalisation {
        /// The tensors of such layers.
        tensors: String,
        /// What they are of, and what to do.
        what: &'static str,
    },
    /// A file without any weights.
    #[error(
        "the network file holds no dense or conv1d layer: no tensor is called `<layer>.weight` (in Keras `kernel`, transposed)"
    )]
    NoLayers,
    /// A tensor of a type that is no number.
    #[error("tensor `{name}` holds {dtype}; weights must be f64, f32, f16 or bf16")]
    TensorType {
        /// The tensor's name.
        name: String,
        /// Its element type.
        dtype: String,
    },
    /// A tensor of the wrong shape.
    #[error("tensor `{name}` has shape {found:?}, expected {expected}")]
    TensorShape {
        /// The tensor's name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What the layer needs, in words.
        expected: String,
    },
    /// A weight whose axes are in another order, as Keras has them.
    #[error(
        "tensor `{name}` has shape {found:?} and looks transposed: it would fit as {:?}. {}", reversed(.found), transpose(.found.len())
    )]
    Transposed {
        /// The tensor's name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A layer that does not fit the one before it.
    #[error("layer `{layer}` has {inputs} inputs, the layer before it (`{before}`) has {outputs} outputs")]
    LayerChain {
        /// The layer.
        layer: String,
        /// Its number of inputs.
        inputs: usize,
        /// The dense layer before it.
        before: String,
        /// That layer's number of outputs.
        outputs: usize,
    },
    /// A layer that does not fit what it is given.
    #[error("layer `{layer}`: {reason}")]
    LayerFit {
        /// The layer: its name, or what `layers` calls it.
        layer: String,
        /// What it needs, what it is given, and what to do.
        reason: String,
    },
    /// Layers that fit spectra of several lengths.
    #[error(
        "the network's layers do not say how many pixels a spectrum has ({fitting}): say so in the first of them, as in \
         layers = [\"input(7214)\", \"conv1d\", ...]"
    )]
    PixelsUnsaid {
        /// Which numbers the layers fit.
        fitting: String,
    },
    /// A weight that is not finite.
    #[error("element {index} of tensor `{name}` is not a finite number in {precision}")]
    NotFinite {
        /// The tensor's name.
        name: String,
        /// Row-major position.
        index: usize,
        /// The arithmetic it was read for.
        precision: String,
    },
    /// A file that does not say what lies between its layers of weights, and neither does the run file.
    #[error(
        "the network file does not say what lies between its {n_dense} dense or conv1d layers ({names}): say so, as in \
         layers = [\"dense\", \"relu\", \"dense\"]"
    )]
    LayersUnsaid {
        /// Number of layers with weights in the file.
        n_dense: usize,
        /// Their names.
        names: String,
    },
    /// A file whose layers fit each other in more than one order, and whose names do not say which.
    #[error(
        "the network file does not say in which order its layers come: {taken} fit each other, and so do {other}; rename its tensors so that \
         numbers give the order, as in `0.weight`, `2.weight`"
    )]
    LayerOrder {
        /// In the order of their names.
        taken: String,
        /// In another order that fits.
        other: String,
    },
    /// The run file and the network file disagree about the layers.
    #[error(
        "the network file says its layers are {file}, the run file says {said}; leave `layers` out of the run file"
    )]
    LayersDisagree {
        /// The file's layers.
        file: String,
        /// The run file's layers.
        said: String,
    },
    /// The run file and the network file disagree about the normalisation or the labels.
    #[error("the network file says its {key} is {file}, the run file says {said}; leave `{key}` out of the run file")]
    Disagree {
        /// The key of `[network]`.
        key: &'static str,
        /// What the file says.
        file: String,
        /// What the run file says.
        said: String,
    },
    /// A network file that names some of its layers with weights, and not the others.
    #[error(
        "the network file's metadata names {named} of its {with_weights} dense or conv1d layers: give each the name of its tensors, as in \
         {{\"kind\": \"dense\", \"name\": \"layers.0\"}}, or none"
    )]
    LayersPartlyNamed {
        /// How many are named.
        named: usize,
        /// How many there are.
        with_weights: usize,
    },
    /// A network file that gives two layers the same tensors.
    #[error(
        "the network file's metadata calls two layers `{name}`: layers that share their weights are not supported, give each a name and tensors \
         of its own"
    )]
    LayerTwice {
        /// The name.
        name: String,
    },
    /// As many layers with weights were said as the file does not hold.
    #[error("`layers` names {said} dense or conv1d layers, the network file holds {found}: {names}")]
    DenseCount {
        /// How many were said.
        said: usize,
        /// How many the file holds.
        found: usize,
        /// Their names.
        names: String,
    },
    /// A layer name that is not known.
    #[error("unknown layer `{name}`; {nearest}")]
    UnknownLayer {
        /// The name.
        name: String,
        /// The nearest known name, those that are known, or what to do, in words.
        nearest: String,
    },
    /// A number or word in a layer name that makes no sense there.
    #[error("layer `{name}`: {reason}")]
    LayerNumber {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A precision that is not known.
    #[error("unknown precision `{name}`; {nearest}")]
    UnknownPrecision {
        /// The name.
        name: String,
        /// The nearest known name, those that are known, or what to do, in words.
        nearest: String,
    },
    /// A GPU was asked for.
    #[error(
        "no GPU can be used here: `cuda` needs an NVIDIA GPU, its driver, and a fisherflow built with `--features cuda`; `cpu` runs on any machine"
    )]
    NoGpu(#[source] candle_core::Error),
    /// A layer that GPUs are not given.
    #[error("layer `{layer}` runs on the CPU only: networks of dense layers and activations run on a GPU")]
    NotOnGpu {
        /// Its kind.
        layer: String,
    },
    /// This machine cannot make products in that precision.
    #[error("precision `{precision}` needs a kernel that cannot be had here; `f32` runs on any machine")]
    MissingKernel {
        /// What was asked for.
        precision: crate::Precision,
        /// Why not.
        #[source]
        source: fisherflow_kernels::PathError,
    },
    /// Label names, units, means or scales in another number than the network has outputs.
    #[error("{count} label {what} given, the network has {outputs} outputs")]
    LabelCount {
        /// `names`, `units`, `means` or `scales`.
        what: &'static str,
        /// How many were given.
        count: usize,
        /// Number of network outputs.
        outputs: usize,
    },
    /// A label name used twice.
    #[error("the label name `{name}` is given twice")]
    LabelTwice {
        /// The name.
        name: String,
    },
    /// A normalisation of another length than a spectrum.
    #[error("{what} has {count} values, the network takes {inputs} (or a single one for all)")]
    NormalisationLength {
        /// `input_mean` or `input_scale`.
        what: &'static str,
        /// How many were given.
        count: usize,
        /// Number of network inputs.
        inputs: usize,
    },
    /// A normalisation that is not finite, or a scale that is not positive.
    #[error("{what}[{index}] is {value}; {remedy}")]
    NormalisationValue {
        /// `input_mean`, `input_scale`, `label mean` or `label scale`.
        what: &'static str,
        /// Position.
        index: usize,
        /// The value.
        value: f64,
        /// What it must be.
        remedy: &'static str,
    },
    /// Spectra of another length than the network takes.
    #[error("the spectra have {found} values, not a whole number of spectra of the network's {inputs} pixels")]
    FluxLength {
        /// Number of values.
        found: usize,
        /// Number of network inputs.
        inputs: usize,
    },
    /// Blocks of the input Jacobian are asked of a backward pass that was not made for them.
    #[error("the backward pass was not asked for the input Jacobian in blocks")]
    NoBlocks,
    /// A forward pass of another network.
    #[error("the forward pass kept {found} layers, the network has {expected}: it is another network's")]
    ForeignForward {
        /// Layers kept.
        found: usize,
        /// The network's layers.
        expected: usize,
    },
    /// Directions in weight space of another length than the weights.
    #[error(
        "{found} values are no whole number of directions over {n_weights} weights, or rows beyond the last of them"
    )]
    DirectionLength {
        /// Number of values, or the last row asked for.
        found: usize,
        /// Number of weights.
        n_weights: usize,
    },
    /// Seeds that do not fit the forward pass.
    #[error("seeds are {found:?} of {dtype:?}, expected [seeds, {batch}, {n_labels}] of {expected:?}")]
    Seeds {
        /// Their shape.
        found: Vec<usize>,
        /// Spectra of the forward pass.
        batch: usize,
        /// Number of labels.
        n_labels: usize,
        /// Their type.
        dtype: candle_core::DType,
        /// The network's type.
        expected: candle_core::DType,
    },
    /// The Hessian of an output is of one spectrum.
    #[error("the Hessian of the outputs is taken for one spectrum at a time, not for {found}")]
    SingleSpectrum {
        /// Spectra of the forward pass.
        found: usize,
    },
    /// The diagonal of the Hessian of an output of a large network with convolutions.
    #[error(
        "the diagonal of the output Hessian of a network with convolutions is taken weight by weight, for up to {most} weights, and this one has \
         {n_weights}: ask for its products with vectors instead"
    )]
    TooManyUnitVectors {
        /// Weights of the network.
        n_weights: usize,
        /// Weights at most.
        most: usize,
    },
    /// A network asked for with widths that are none.
    #[error("widths {widths:?} describe no network: at least an input and an output width, all positive, are needed")]
    Widths {
        /// The widths.
        widths: Vec<usize>,
    },
    /// A training recipe that cannot be followed.
    #[error("training recipe: {what} is {value}; {remedy}")]
    Recipe {
        /// The setting.
        what: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        remedy: &'static str,
    },
    /// A training set whose parts disagree.
    #[error(
        "the {set} set says {n_spectra} spectra of {n_pixels} pixels and {n_labels} labels, but holds {flux} flux values and {labels} label values"
    )]
    TrainingSetShape {
        /// `training` or `validation`.
        set: &'static str,
        /// Number of spectra.
        n_spectra: usize,
        /// Pixels a spectrum.
        n_pixels: usize,
        /// Labels a spectrum.
        n_labels: usize,
        /// Flux values held.
        flux: usize,
        /// Label values held.
        labels: usize,
    },
    /// A training set without spectra.
    #[error("the training set is empty")]
    EmptyTrainingSet,
    /// A flux or label that is not finite.
    #[error("spectrum {row} of the {set} set has a {what} that is not finite; leave such rows out")]
    TrainingValue {
        /// `training` or `validation`.
        set: &'static str,
        /// The row.
        row: usize,
        /// `flux` or `label`.
        what: &'static str,
    },
    /// The loss is no number any more.
    #[error("training diverged in epoch {epoch}: the loss is {loss}; lower the learning rate")]
    Diverged {
        /// The epoch, from 1.
        epoch: usize,
        /// The loss.
        loss: f64,
    },
    /// A tensor operation failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
    /// Writing a safetensors file failed.
    #[error("the network cannot be written as safetensors")]
    Write(#[source] safetensors::SafeTensorError),
    /// Writing the description failed.
    #[error("the network's description cannot be written as JSON")]
    WriteMetadata(#[source] serde_json::Error),
}

fn reversed(shape: &[usize]) -> Vec<usize> {
    shape.iter().rev().copied().collect()
}

/// How Keras' kernel of so many axes becomes ours.
fn transpose(axes: usize) -> String {
    let (theirs, ours, remedy) = match axes {
        2 => ("[inputs, outputs]", "[outputs, inputs]", "kernel.T"),
        _ => (
            "[kernel, channels, output channels]",
            "[output channels, channels, kernel]",
            "kernel.transpose(2, 1, 0)",
        ),
    };
    format!(
        "Keras keeps a kernel as {theirs}, here it is {ours}: transpose it on export, as in numpy.ascontiguousarray({remedy})"
    )
}
