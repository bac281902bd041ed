//! fisherflow.
fn main() {}
