//! The numbers themselves: what every structure, prior, noise and arithmetic gives is what it is defined as, and the same on any workers and
//! processes.

mod convolution;
mod curvature_products;
mod degenerate;
mod dual;
mod metamorphic;
mod monte_carlo;
mod noise;
mod precision;
mod prior;
mod same_bits;
