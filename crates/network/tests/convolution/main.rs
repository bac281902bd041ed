//! Networks with convolutions, pooling, flattening and layers without bias.

mod derivatives;
mod files;
mod plain_layers;
mod second_derivatives;
