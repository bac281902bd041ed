//! The structures against what does not share a line with them: dense f64 brute force, and finite differences.

mod brute_force;
mod centring;
mod failures;
mod identities;
mod oracle;
mod positions;
mod vector_products;
