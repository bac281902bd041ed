//! What the repository holds beside the program: files of `deploy/` and run files of `pipelines/` as they are shipped, how it is cited, and which
//! crates know which.

mod citation;
mod deploy;
mod layers;
mod pipelines;
