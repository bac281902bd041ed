//! Credentials of S3 that may run out while a run goes on: where they come from, and how they are had anew.
//!
//! Those of a web identity, a container or an instance are fetched again before they run out, by the client. Where a store says earlier
//! that they have, they are fetched again at once; keys in a file are read again when the file changes. A file that is not there is passed over
//! for the container or the instance, and named where these give none either.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use object_store::{CredentialProvider, Error, Result};

use crate::objects::options::fault_of_text;
use crate::{CredentialsFile, StoreError, StoreOptions, with_causes};

/// Where the credentials come from; shown in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    None,
    Keys,
    WebIdentity { token_file: String },
    File(CredentialsFile),
    Container { uri: String },
    Instance,
}

/// Credentials, had anew on demand.
pub(crate) struct Credentials {
    source: Source,
    /// A file that was to have keys, and was not there.
    passed_over: Option<String>,
    builder: AmazonS3Builder,
    current: RwLock<Current>,
}

struct Current {
    provider: AwsCredentialProvider,
    since: Instant,
}

impl Source {
    /// As the client chooses among what it is given; a file of keys, where it is there, goes between web identity and container, as in Amazon's own.
    fn of(options: &StoreOptions) -> std::result::Result<Self, StoreError> {
        use AmazonS3ConfigKey as Key;
        let given = options.parsed()?;
        let find = |wanted: Key| given.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        let has = |wanted| find(wanted).is_some();
        if find(Key::SkipSignature).is_some_and(|value| matches!(value.to_lowercase().as_str(), "true" | "1")) {
            return Ok(Self::None);
        }
        if has(Key::AccessKeyId) || has(Key::SecretAccessKey) {
            return Ok(Self::Keys);
        }
        if let (Some(token_file), true) = (find(Key::WebIdentityTokenFile), has(Key::RoleArn)) {
            return Ok(Self::WebIdentity {
                token_file: token_file.to_owned(),
            });
        }
        let is_there = |file: &&CredentialsFile| !matches!(Path::new(&file.path).try_exists(), Ok(false));
        if let Some(file) = options.credentials_file.as_ref().filter(is_there) {
            return Ok(Self::File(file.clone()));
        }
        let full = find(Key::ContainerCredentialsFullUri).filter(|_| has(Key::ContainerAuthorizationTokenFile));
        Ok(match find(Key::ContainerCredentialsRelativeUri).or(full) {
            Some(uri) => Self::Container { uri: uri.to_owned() },
            None => Self::Instance,
        })
    }

    fn in_words(&self) -> String {
        match self {
            Self::None => "no keys: requests are not signed (skip_signature)".to_owned(),
            Self::Keys => "the keys of AWS_ACCESS_KEY_ID, which cannot be had anew".to_owned(),
            Self::WebIdentity { token_file } => format!("the web identity of {token_file}"),
            Self::File(CredentialsFile { path, profile }) => format!("profile {profile} of {path}"),
            Self::Container { uri } => format!("the container's credentials at {uri}"),
            Self::Instance => "the role of the instance".to_owned(),
        }
    }
}

impl Credentials {
    /// Those that the options give to the client of a bucket.
    pub fn new(options: &StoreOptions, builder: AmazonS3Builder) -> std::result::Result<Result<Self>, StoreError> {
        let source = Source::of(options)?;
        let file = options.credentials_file.as_ref();
        let passed_over = file.filter(|_| matches!(source, Source::Container { .. } | Source::Instance));
        if let Some(CredentialsFile { path, .. }) = passed_over {
            tracing::warn!(
                path,
                instead = source.in_words(),
                "the file of credentials is not there"
            );
        }
        let provider = match provider(&source, &builder) {
            Ok(provider) => provider,
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(Self {
            source,
            passed_over: passed_over.map(|file| file.path.clone()),
            builder,
            current: RwLock::new(Current {
                provider,
                since: Instant::now(),
            }),
        }))
    }

    /// Where they come from.
    pub fn source(&self) -> String {
        let source = self.source.in_words();
        match &self.passed_over {
            Some(path) => format!("{source}, as there is no file {path}"),
            None => source,
        }
    }

    /// Has them anew after a request that began at `began` was refused; `false` where there is nowhere to have them from.
    pub fn renew(&self, began: Instant) -> bool {
        if matches!(self.source, Source::None | Source::Keys) {
            return false;
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.since > began {
            // Another request was refused, too.
            return true;
        }
        match provider(&self.source, &self.builder) {
            Ok(provider) => {
                tracing::info!(source = self.source(), "credentials were refused: fetched again");
                *current = Current {
                    provider,
                    since: Instant::now(),
                };
                true
            }
            Err(_) => false,
        }
    }
}

/// A provider that has fetched nothing yet.
fn provider(source: &Source, builder: &AmazonS3Builder) -> Result<AwsCredentialProvider> {
    match source {
        Source::File(file) => Ok(Arc::new(KeysInFile {
            file: file.clone(),
            read: RwLock::new(None),
        })),
        _ => Ok(Arc::clone(builder.clone().build()?.credentials())),
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let provider = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&current.provider)
        };
        let found = provider.get_credential().await;
        match &self.passed_over {
            None => found,
            // What is wrong may be the path of the file.
            Some(_) => found.map_err(|error| Error::Generic {
                store: "S3",
                source: format!("no credentials from {}: {}", self.source(), with_causes(&error)).into(),
            }),
        }
    }
}

/// Keys of a profile in a file, read again when the file has changed.
struct KeysInFile {
    file: CredentialsFile,
    read: RwLock<Option<(SystemTime, Arc<AwsCredential>)>>,
}

impl std::fmt::Debug for KeysInFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeysInFile")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialProvider for KeysInFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let path = &self.file.path;
        let failed = |what: String| Error::Generic {
            store: "S3",
            source: format!("no credentials in {path}: {what}").into(),
        };
        let changed = std::fs::metadata(path)
            .and_then(|meta| meta.modified())
            .map_err(|error| failed(error.to_string()))?;
        if let Some((known, keys)) = &*self.read.read().unwrap_or_else(PoisonError::into_inner)
            && *known == changed
        {
            return Ok(Arc::clone(keys));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let keys = keys_of(&text, &self.file.profile).map_err(failed)?;
        let keys = Arc::new(keys);
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Some((changed, Arc::clone(&keys)));
        Ok(keys)
    }
}

/// The keys of a profile in a shared credentials file: `[profile]`, then `name = value` lines.
fn keys_of(text: &str, profile: &str) -> std::result::Result<AwsCredential, String> {
    let mut within = false;
    let mut found = false;
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            within = name.trim() == profile;
            found |= within;
        } else if let (true, Some((name, value))) = (within, line.split_once('=')) {
            let (name, value) = (name.trim(), value.trim());
            let key = match name {
                "aws_access_key_id" => &mut key_id,
                "aws_secret_access_key" => &mut secret_key,
                "aws_session_token" => &mut token,
                _ => continue,
            };
            if let Some(fault) = fault_of_text(value) {
                return Err(format!("{name} of profile [{profile}] {fault}"));
            }
            // As in the environment, an empty one counts as none.
            *key = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
    }
    match (key_id, secret_key) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential {
            key_id,
            secret_key,
            token,
        }),
        _ if !found => Err(format!("it has no profile [{profile}]")),
        _ => Err(format!(
            "profile [{profile}] lacks aws_access_key_id or aws_secret_access_key"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key=s\n\n[night]\naws_access_key_id=B\n\
                        aws_secret_access_key = t=1\naws_session_token = u\nregion = x\n[half]\naws_access_key_id = C\n";

    #[test]
    fn a_profile_is_found_in_a_file() {
        let keys = keys_of(FILE, "night").unwrap();
        assert_eq!((keys.key_id.as_str(), keys.secret_key.as_str()), ("B", "t=1"));
        assert_eq!(keys.token.as_deref(), Some("u"));
        assert_eq!(keys_of(FILE, "default").unwrap().token, None);
        assert!(keys_of(FILE, "day").unwrap_err().contains("no profile [day]"));
        assert!(keys_of(FILE, "half").unwrap_err().contains("lacks"));
    }

    #[test]
    fn an_empty_key_in_a_file_counts_as_none() {
        let of = |key: &str| {
            let text = format!("[night]\naws_access_key_id ={key}\naws_secret_access_key = s\naws_session_token =\n");
            keys_of(&text, "night")
        };
        assert!(of("").unwrap_err().contains("lacks"));
        assert_eq!(of("A").unwrap().token, None);
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused_and_not_repeated() {
        let said = keys_of(
            "[night]\naws_access_key_id = A\naws_secret_access_key = hu\rsh\n",
            "night",
        )
        .unwrap_err();
        assert!(said.starts_with("aws_secret_access_key of profile [night] "), "{said}");
        assert!(said.contains("line break") && !said.contains("hu\r"), "{said}");
    }

    #[test]
    fn the_source_is_named_and_no_secret() {
        let options = |pairs: &[(&str, &str)], file: Option<CredentialsFile>| StoreOptions {
            s3: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            credentials_file: file,
            ..StoreOptions::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys").to_str().unwrap().to_owned();
        let file = CredentialsFile {
            path: path.clone(),
            profile: "night".to_owned(),
        };
        let words = |options: &StoreOptions| Source::of(options).unwrap().in_words();
        let keys = options(
            &[("aws_access_key_id", "A"), ("aws_secret_access_key", "hush")],
            Some(file.clone()),
        );
        assert!(words(&keys).contains("AWS_ACCESS_KEY_ID") && !words(&keys).contains("hush"));
        assert_eq!(words(&options(&[], None)), "the role of the instance");
        let container = [
            ("aws_container_credentials_full_uri", "http://a/b"),
            ("aws_container_authorization_token_file", "/t"),
        ];
        assert!(words(&options(&container, None)).contains("http://a/b"));

        // A file that is not there is passed over.
        assert_eq!(words(&options(&[], Some(file.clone()))), "the role of the instance");
        assert!(words(&options(&container, Some(file.clone()))).contains("http://a/b"));
        std::fs::write(&path, FILE).unwrap();
        for others in [&[][..], &container] {
            assert_eq!(
                words(&options(others, Some(file.clone()))),
                format!("profile night of {path}")
            );
        }
    }

    #[test]
    fn keys_in_a_file_are_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let write = |key: &str, age: u64| {
            std::fs::write(
                &path,
                format!("[default]\naws_access_key_id={key}\naws_secret_access_key=s\n"),
            )
            .unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            let past = SystemTime::now() - std::time::Duration::from_secs(age);
            file.set_modified(past).unwrap();
        };
        let keys = KeysInFile {
            file: CredentialsFile {
                path: path.to_str().unwrap().to_owned(),
                profile: "default".to_owned(),
            },
            read: RwLock::new(None),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let key = || runtime.block_on(keys.get_credential()).map(|keys| keys.key_id.clone());
        write("one", 100);
        assert_eq!(key().unwrap(), "one");
        write("two", 50);
        assert_eq!(key().unwrap(), "two");
        std::fs::remove_file(&path).unwrap();
        assert!(key().unwrap_err().to_string().contains("no credentials in"));
    }
}
