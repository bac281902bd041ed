//! What the repository holds beside the program: files of `deploy/` and run files of `pipelines/` as they are shipped, and which crates know which.

mod deploy;
mod layers;
mod pipelines;
