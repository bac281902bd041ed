//! The clients of S3 buckets: impatient at first contact, patient afterwards.

use std::sync::{Arc, PoisonError};

use object_store::aws::{AmazonS3Builder, AwsCredentialProvider, S3ConditionalPut};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};

use crate::objects::credentials::Credentials;
use crate::objects::failure::Action;
use crate::objects::location::{Location, Place};
use crate::objects::patience::Patience;
use crate::objects::patient::{Link, Patient};
use crate::objects::traffic::Counted;
use crate::objects::verdict::status;
use crate::{StoreError, Stores};

impl Stores {
    /// The client of a bucket. The first contact is impatient, so that a wrong endpoint or missing credentials are told within seconds;
    /// afterwards the client is patient with a store that is busy.
    pub(crate) fn bucket(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let mut known = self.inner.s3.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = known.get(bucket) {
            return Ok(Arc::clone(store));
        }
        let patience = &self.inner.options.patience;
        let credentials = self.credentials(bucket)?;
        let contact = Location {
            store: self.patient(bucket, patience.at_first_contact(), &credentials)?,
            path: Path::from("fisherflow-first-contact"),
            place: Place::S3 {
                bucket: bucket.to_owned(),
            },
        };
        // Any answer of the store itself will do: what the credentials permit shows where it is needed.
        if let Err(error @ object_store::Error::Generic { .. }) = self.block_on(contact.store.head(&contact.path))
            && status(&error).is_none()
        {
            return Err(self.unreached(&contact, error));
        }
        let store = self.patient(bucket, patience.clone(), &credentials)?;
        known.insert(bucket.to_owned(), Arc::clone(&store));
        Ok(store)
    }

    /// The error of a first contact: not that patience ended is the point, but that nobody answers.
    fn unreached(&self, contact: &Location, error: object_store::Error) -> StoreError {
        let last = match error {
            object_store::Error::Generic { store, source } => {
                match source.downcast::<crate::objects::patient::GivenUp>() {
                    Ok(given_up) => given_up.last,
                    Err(source) => object_store::Error::Generic { store, source },
                }
            }
            error => error,
        };
        match self.failed(contact, Action::Read, last) {
            // What was asked for matters to nobody.
            StoreError::Unreachable { endpoint, source, .. } => StoreError::Unreachable {
                uri: contact.place.uri(""),
                endpoint,
                source,
            },
            error => error,
        }
    }

    fn patient(
        &self,
        bucket: &str,
        patience: Patience,
        credentials: &Arc<Credentials>,
    ) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let provider: AwsCredentialProvider = Arc::clone(credentials) as _;
        let s3 = self.builder(bucket, &patience)?.with_credentials(provider).build();
        let store = Patient {
            link: Arc::new(Link {
                s3: s3.map_err(|error| self.bad_options(bucket, &error))?,
                bucket: bucket.to_owned(),
                patience,
                credentials: Arc::clone(credentials),
                retries: Arc::clone(&self.traffic().retries),
                secrets: self.secrets(),
            }),
        };
        Ok(Arc::new(Counted::new(store, self.traffic())))
    }

    fn credentials(&self, bucket: &str) -> Result<Arc<Credentials>, StoreError> {
        let builder = self.builder(bucket, &self.inner.options.patience)?;
        let credentials = Credentials::new(&self.inner.options, builder)?;
        Ok(Arc::new(credentials.map_err(|error| self.bad_options(bucket, &error))?))
    }

    fn builder(&self, bucket: &str, patience: &Patience) -> Result<AmazonS3Builder, StoreError> {
        let options = &self.inner.options;
        let client = ClientOptions::new()
            .with_timeout(patience.timeout)
            .with_connect_timeout(patience.connect_timeout)
            .with_allow_http(options.endpoint().is_some_and(|e| e.starts_with("http://")));
        let never = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let mut builder = AmazonS3Builder::new()
            .with_client_options(client)
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(never);
        for (key, value) in options.parsed()? {
            builder = builder.with_config(key, value);
        }
        Ok(builder)
    }

    fn bad_options(&self, bucket: &str, error: &object_store::Error) -> StoreError {
        StoreError::BadOptions {
            uri: format!("s3://{bucket}"),
            source: self.cause(error),
        }
    }
}
