//! Objects on S3 or disk: from a URI to bytes, with patience, counted, and whole or not there.

pub(crate) mod async_reader;
pub(crate) mod byte_budget;
pub(crate) mod create_once;
pub(crate) mod credentials;
pub(crate) mod destination;
pub(crate) mod direct;
pub(crate) mod disk;
pub(crate) mod failure;
pub(crate) mod int96;
pub(crate) mod location;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod options;
pub(crate) mod patience;
pub(crate) mod patient;
pub(crate) mod patient_upload;
pub(crate) mod retries;
pub(crate) mod s3_client;
pub(crate) mod stores;
pub(crate) mod traffic;
pub(crate) mod upload_parts;
pub(crate) mod verdict;
