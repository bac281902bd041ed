//! The network of `convolution/` in `tests/references/posteriors.npz`.

pub const LAYERS: [&str; 7] = [
    "input(10)",
    "conv1d(stride=2)",
    "tanh",
    "conv1d",
    "tanh",
    "flatten(channels_first)",
    "dense",
];
