//! The store, from a disk that is full to an S3 server that misbehaves: what a run makes of it, and what it asks of it.

mod full_disk;
mod lines_on_s3;
mod s3;
mod store_clients;
mod store_faults;
