//! Credentials and endpoints of the object stores, as the command line resolved them.

use std::fmt;

use object_store::aws::AmazonS3ConfigKey;
use object_store::client::{HttpRequest, HttpRequestBody};
use url::Url;

use crate::nearest_name::nearest;
use crate::{Patience, StoreError};

/// Options of the object stores. Nothing here is read from the environment: the command line does that.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// How long to try again.
    pub patience: Patience,
    /// A file of keys, where there are none in `s3`.
    pub credentials_file: Option<CredentialsFile>,
    /// Keys and values as [`AmazonS3ConfigKey`] spells them (`aws_access_key_id`, `endpoint`, `region`, `allow_http`, ...), lower case.
    pub s3: Vec<(String, String)>,
}

/// A profile of a shared credentials file: it is read again when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialsFile {
    /// Its path.
    pub path: String,
    /// The section in it.
    pub profile: String,
}

/// The options as their variables spell them, in lower case, for the nearest name.
const KEYS: &[&str] = &[
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_region",
    "aws_default_region",
    "aws_endpoint_url",
    "aws_endpoint_url_s3",
    "aws_endpoint_url_sts",
    "aws_virtual_hosted_style_request",
    "aws_s3_express",
    "aws_imdsv1_fallback",
    "aws_metadata_endpoint",
    "aws_unsigned_payload",
    "aws_checksum_algorithm",
    "aws_container_credentials_relative_uri",
    "aws_container_credentials_full_uri",
    "aws_container_authorization_token_file",
    "aws_web_identity_token_file",
    "aws_role_arn",
    "aws_role_session_name",
    "aws_skip_signature",
    "aws_disable_tagging",
    "aws_request_payer",
    "aws_server_side_encryption",
    "aws_sse_kms_key_id",
    "aws_sse_bucket_key_enabled",
    "aws_sse_customer_key_base64",
    "aws_allow_http",
    "aws_allow_invalid_certificates",
    "aws_connect_timeout",
    "aws_timeout",
    "aws_proxy_url",
    "aws_proxy_ca_certificate",
    "aws_proxy_excludes",
    "aws_pool_idle_timeout",
    "aws_pool_max_idle_per_host",
    "aws_http1_only",
    "aws_http2_only",
    "aws_user_agent",
];

impl StoreOptions {
    /// Checks that every key is one that S3 has, and that requests can be made of its value.
    ///
    /// # Errors
    /// The first unknown key, with the nearest one, a value that cannot be used, or an endpoint that holds a user or a password. The bucket and the way of conditional writes are not options: the URI says the one, and
    /// the other is always by etag.
    pub fn validate(&self) -> Result<(), StoreError> {
        self.parsed().map(|_| ())
    }

    pub(crate) fn parsed(&self) -> Result<Vec<(AmazonS3ConfigKey, &str)>, StoreError> {
        self.s3
            .iter()
            .map(|(key, value)| match key.parse() {
                Ok(
                    AmazonS3ConfigKey::Bucket | AmazonS3ConfigKey::ConditionalPut | AmazonS3ConfigKey::CopyIfNotExists,
                )
                | Err(_) => Err(StoreError::UnknownOption {
                    key: key.clone(),
                    nearest: nearest(key, KEYS.iter().copied()),
                }),
                // Addresses are said in messages. That of a proxy is not, and may need its secret.
                Ok(_) if is_address(key) && value.contains('@') => Err(StoreError::SecretInUrl { key: key.clone() }),
                Ok(known) => match fault_of_text(value).or_else(|| fault_of(&known, key, value)) {
                    Some(fault) => Err(StoreError::UnusableOption {
                        key: key.clone(),
                        fault,
                    }),
                    None => Ok((known, value.as_str())),
                },
            })
            .collect()
    }

    /// Values that no message may show, and the user and password of those that are URLs: other programs write a URL in other ways.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let values = self
            .s3
            .iter()
            .filter(|(key, value)| {
                let named = ["secret", "access_key", "token", "sse_", "proxy"];
                named.iter().any(|part| key.contains(part)) || (is_address(key) && value.contains('@'))
            })
            .flat_map(|(_, value)| {
                let user = value.rsplit_once('@').map(|(before, _)| before);
                let user = user.map(|user| user.split_once("://").map_or(user, |(_, user)| user));
                let password = user.and_then(|user| user.split_once(':')).map(|(_, password)| password);
                [Some(value.as_str()), user, password]
            });
        let values = values.flatten().filter(|value| value.len() > 3);
        values.map(str::to_owned).collect()
    }

    /// The endpoint, where one is given.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.s3
            .iter()
            .rev()
            .find(|(key, _)| key.contains("endpoint") && !key.contains("sts") && !key.contains("metadata"))
            .map(|(_, value)| value.as_str())
    }
}

/// Whether a key's value is an address that messages show.
fn is_address(key: &str) -> bool {
    ["endpoint", "_uri"].iter().any(|part| key.contains(part))
}

/// Why no header can carry a text, where none can: the client panics at it.
pub(crate) fn fault_of_text(value: &str) -> Option<&'static str> {
    (value.trim() != value || value.contains(char::is_control)).then_some(
        "begins or ends with a blank or a line break, or holds a control character: give the value alone (a file that `kubectl create secret \
         --from-file` reads must end without a line break)",
    )
}

/// Why no request can be sent to where a value says, where none can: the client panics at it.
fn fault_of(known: &AmazonS3ConfigKey, key: &str, value: &str) -> Option<&'static str> {
    let is_region = matches!(known, AmazonS3ConfigKey::Region | AmazonS3ConfigKey::DefaultRegion);
    let in_name = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    if is_region && (value.is_empty() || !value.chars().all(in_name)) {
        // Amazon's hosts are named after it.
        return Some("is no region's name: write letters, digits and hyphens alone, as in us-east-1");
    }
    let is_url = key.contains("endpoint") || *known == AmazonS3ConfigKey::ContainerCredentialsFullUri;
    (is_url && !is_of_web(value)).then_some(
        "is no URL that can be asked: write http:// or https:// before the host, and a host, as in http://minio.local:9000",
    )
}

/// Whether a value is a URL of the web, as it stands.
fn is_of_web(value: &str) -> bool {
    let of_web = |url: Url| matches!(url.scheme(), "http" | "https");
    // `Url` mends what the client takes as it is, and does not take: a slash that lacks, a host in other letters.
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    let taken = value.parse().map(|uri| *request.uri_mut() = uri);
    taken.is_ok() && Url::parse(value).is_ok_and(of_web)
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.s3.iter().map(|(key, _)| key.as_str()).collect();
        f.debug_struct("StoreOptions")
            .field("s3", &keys)
            .field("credentials_file", &self.credentials_file)
            .field("patience", &self.patience)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_name_the_nearest() {
        for (key, nearest) in [
            ("aws_acces_key_id", "aws_access_key_id"),
            ("aws_alow_http", "aws_allow_http"),
        ] {
            let options = StoreOptions {
                s3: vec![(key.into(), "x".into())],
                ..StoreOptions::default()
            };
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(&format!("did you mean \"{nearest}\"?")), "{message}");
        }
        assert!(KEYS.iter().all(|key| key.parse::<AmazonS3ConfigKey>().is_ok()));
    }

    #[test]
    fn debug_shows_no_value() {
        let options = StoreOptions {
            s3: vec![("aws_secret_access_key".into(), "hunter2".into())],
            ..StoreOptions::default()
        };
        let shown = format!("{options:?}");
        assert!(shown.contains("s3: [\"aws_secret_access_key\"]"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(options.secrets(), ["hunter2"]);
    }

    #[test]
    fn an_endpoint_with_a_password_is_refused_and_not_repeated() {
        let with = |key: &str, value: &str| StoreOptions {
            s3: vec![(key.into(), value.into())],
            ..StoreOptions::default()
        };
        let endpoints = [
            "aws_endpoint_url",
            "aws_endpoint_url_s3",
            "aws_endpoint_url_sts",
            "endpoint",
        ];
        let containers = ["aws_container_credentials_full_uri", "aws_metadata_endpoint"];
        for key in endpoints.into_iter().chain(containers) {
            for value in [
                "http://user:hunter2@host:9000",
                "user:hunter2@host",
                "https://user:hunt/er2@host",
            ] {
                let options = with(key, value);
                let said = options.validate().unwrap_err().to_string();
                assert!(said.contains(key) && said.contains("AWS_SECRET_ACCESS_KEY"), "{said}");
                assert!(!said.contains("hunt") && !said.contains("host:"), "{said}");
                let error = std::io::Error::other(format!("http://host (as {}) refused", &value[value.len() - 12..]));
                let cause = crate::Cause::new(&error, &options.secrets()).to_string();
                assert!(!cause.contains("hunter2"), "{cause}");
            }
            assert!(with(key, "http://host:9000/path").validate().is_ok());
        }
        let proxy = with("proxy_url", "http://user:hunter2@proxy");
        assert!(proxy.validate().is_ok());
        assert_eq!(
            proxy.secrets(),
            ["http://user:hunter2@proxy", "user:hunter2", "hunter2"]
        );
    }

    #[test]
    fn a_value_that_no_request_can_be_made_of_is_refused_and_not_repeated() {
        let said = |key: &str, value: &str| {
            let options = StoreOptions {
                s3: vec![(key.into(), value.into())],
                ..StoreOptions::default()
            };
            options.validate().map_err(|error| error.to_string())
        };
        for value in [
            "",
            "minio.local",
            "minio.local:9000",
            "http://",
            "http:/127.0.0.1:5127",
            "http://[::1",
            "http://host:99999",
            "http://m\u{fc}nchen:9000",
            "\"http://host\"",
            "ftp://host",
        ] {
            for key in [
                "aws_endpoint_url",
                "aws_endpoint_url_s3",
                "aws_endpoint_url_sts",
                "aws_metadata_endpoint",
                "aws_container_credentials_full_uri",
            ] {
                let said = said(key, value).unwrap_err();
                assert!(
                    said.starts_with(&key.to_uppercase()) && said.contains("write http:// or https:// before"),
                    "{value}: {said}"
                );
            }
        }
        for value in ["", "us east-1", "\"us-east-1\"", "\u{e9}"] {
            let said = said("aws_region", value).unwrap_err();
            assert!(said.contains("AWS_REGION is no region's name"), "{value}: {said}");
        }
        for key in [
            "aws_access_key_id",
            "aws_secret_access_key",
            "aws_session_token",
            "aws_region",
            "aws_endpoint_url",
            "aws_web_identity_token_file",
        ] {
            for value in [
                "http://hush\n",
                "http://hush ",
                " http://hush",
                "http://hu\nsh",
                "http://hu\tsh",
            ] {
                let said = said(key, value).unwrap_err();
                assert!(
                    said.starts_with(&key.to_uppercase()) && said.contains("line break"),
                    "{value:?}: {said}"
                );
                assert!(!said.contains("http"), "{said}");
            }
        }
        for (key, value) in [
            ("aws_endpoint_url", "https://[::1]:9000/path/"),
            ("aws_endpoint_url", "HTTP://MinIO_1.local:80"),
            ("aws_container_credentials_full_uri", "http://localhost/a?b=c%20d"),
            ("aws_container_credentials_relative_uri", "/v2/credentials"),
            ("aws_region", "us-gov-west-1"),
            ("aws_secret_access_key", "a+/= b"),
        ] {
            assert_eq!(said(key, value), Ok(()), "{key}");
        }
    }
}
