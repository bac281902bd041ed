//! The structures against what does not share a line with them: dense f64 brute force, finite differences, and reference outputs.

mod brute_force;
mod centring;
mod conv_net;
mod failures;
mod identities;
mod npz;
mod oracle;
mod positions;
mod shared_reference;
mod vector_products;
mod weight_sharing;
