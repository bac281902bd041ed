//! The clients of S3 buckets: impatient at first contact, patient afterwards.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};

use crate::failure::Action;
use crate::location::{Location, Place};
use crate::traffic::Counted;
use crate::{StoreError, Stores};

impl Stores {
    /// The client of a bucket. The first contact is impatient, so that a wrong endpoint or missing credentials are told within seconds;
    /// afterwards the client is patient with a store that is busy.
    pub(crate) fn bucket(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let mut known = self.inner.s3.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = known.get(bucket) {
            return Ok(Arc::clone(store));
        }
        let impatient = RetryConfig {
            max_retries: 2,
            retry_timeout: Duration::from_secs(10),
            ..RetryConfig::default()
        };
        let place = Place::S3 {
            bucket: bucket.to_owned(),
        };
        let contact = Location {
            store: self.build_s3(bucket, impatient)?,
            path: Path::from("fisherflow-first-contact"),
            place: place.clone(),
        };
        // Any answer of the store itself will do: what the credentials permit shows where it is needed.
        if let Err(error @ (object_store::Error::Generic { .. } | object_store::Error::Unauthenticated { .. })) =
            self.block_on(contact.store.head(&contact.path))
        {
            return Err(self.failed(&contact, Action::Read, error));
        }
        let store = self.build_s3(bucket, RetryConfig::default())?;
        known.insert(bucket.to_owned(), Arc::clone(&store));
        Ok(store)
    }

    fn build_s3(&self, bucket: &str, retry: RetryConfig) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let options = &self.inner.options;
        // The client's own limit of 30 s is for a whole request with its body: too little for a large range beside a busy CPU.
        let client = ClientOptions::new()
            .with_timeout(Duration::from_secs(180))
            .with_connect_timeout(Duration::from_secs(5))
            .with_allow_http(options.endpoint().is_some_and(|e| e.starts_with("http://")));
        let mut builder = AmazonS3Builder::new()
            .with_client_options(client)
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retry);
        for (key, value) in options.parsed()? {
            builder = builder.with_config(key, value);
        }
        let store = builder.build().map_err(|error| StoreError::BadOptions {
            uri: format!("s3://{bucket}"),
            source: self.cause(&error),
        })?;
        Ok(Arc::new(Counted::new(store, self.traffic())))
    }
}
