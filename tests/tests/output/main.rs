//! What a run leaves: when it begins to count, what is read from it and asked of it, and what stays of it in a line of releases.

mod consumers;
mod life_of_an_output;
mod lines;
mod queries;
mod released_files;
mod row_keys;
