//! Networks over candle tensors: forward, K backward passes at once, layer capture, the Jacobian of labels by flux, and exact second
//! derivatives by the weights.

mod arithmetic;
mod backward;
mod blocks;
mod capture;
mod error;
mod files;
mod in_place;
mod labels;
mod layers;
mod network;
mod output_hessian;
mod processor;
pub mod product;
mod r_operator;
pub mod scratch;
pub mod train;
mod training;
mod weight_directions;

pub use arithmetic::{Arithmetic, Precision};
pub use backward::{Backward, InputJacobian, ROWS_OF_A_BLOCK};
pub use capture::LayerCapture;
pub use error::NetworkError;
pub use files::description::{Description, LabelsDescription, METADATA_KEY};
pub use files::nearest_name::{near_name, nearest_name};
pub use files::tensor_file::to_safetensors;
pub use files::tensor_list::{ListedTensor, example_layers, tensors_in};
pub use labels::Labels;
pub use layers::activation::Activation;
pub use layers::dense::DenseShape;
pub use layers::flatten::FlattenOrder;
pub use layers::pool1d::Pooling;
pub use layers::spec::LayerSpec;
pub use layers::window::Padding;
pub use network::{Forward, Network};
pub use processor::Processor;
pub use weight_directions::WeightDirections;
