//! Several processes, of one run and of two: how they find one another, who holds the output, and what becomes of the others and of the run when
//! one is cut off.

mod cluster;
mod concurrent;
mod groups;
mod partition;
mod start_up;
