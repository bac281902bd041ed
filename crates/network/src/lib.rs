//! Networks over candle tensors: forward, K backward passes at once, layer capture, the Jacobian of labels by flux, and exact second
//! derivatives by the weights.

mod activation;
mod adam;
mod arithmetic;
mod backward;
mod blocks;
mod capture;
mod dense;
mod description;
mod error;
mod he_normal;
mod labels;
mod layer_spec;
mod natural_order;
mod nearest_name;
mod network;
mod normalisation;
mod output_hessian;
pub mod product;
mod r_operator;
mod safetensors;
mod tensor_file;
pub mod train;
mod training_set;
mod weight_directions;

pub use activation::Activation;
pub use arithmetic::{Arithmetic, Precision};
pub use backward::{Backward, InputJacobian};
pub use capture::LayerCapture;
pub use dense::DenseShape;
pub use description::{Description, LabelsDescription, METADATA_KEY};
pub use error::NetworkError;
pub use labels::Labels;
pub use layer_spec::LayerSpec;
pub use nearest_name::nearest_name;
pub use network::{Forward, Network};
pub use tensor_file::to_safetensors;
pub use weight_directions::WeightDirections;
