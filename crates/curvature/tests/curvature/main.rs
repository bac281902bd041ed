//! The structures against what does not share a line with them: dense f64 brute force, finite differences, and reference outputs.

mod brute_force;
mod centring;
mod conv_net;
mod failures;
mod identities;
mod oracle;
mod positions;
#[path = "../../../../tests/references/read.rs"]
#[expect(dead_code, reason = "what is in the repository is read by other tests")]
mod references;
mod shared_reference;
mod vector_products;
mod weight_sharing;

use references::npz;
