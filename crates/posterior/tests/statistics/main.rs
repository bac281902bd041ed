//! Whether error bars are as large as errors: repeated simulations with known truth, and a bootstrap of training. All are seeded.

mod bootstrap;
mod coverage;
mod small_net;
