//! From a URI to a store and a path in it.

use std::path::{Component, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;

use crate::StoreError;

/// Schemes of URIs, of whatever program, that a name on a disk is not likely to begin with.
const SCHEMES: [&str; 14] = [
    "s3", "s3a", "s3n", "gs", "gcs", "az", "abfs", "abfss", "adl", "hdfs", "file", "http", "https", "ftp",
];

/// One place in one store.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub store: Arc<dyn ObjectStore>,
    pub path: Path,
    pub place: Place,
}

/// Which store a place is in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Local,
    S3 { bucket: String },
}

/// A URI taken apart; the path may hold `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub place: Place,
    /// Without a leading slash.
    pub key: String,
}

impl Place {
    /// The URI of a path in this store.
    pub fn uri(&self, key: &str) -> String {
        match self {
            Place::Local => format!("/{key}"),
            Place::S3 { bucket } => format!("s3://{bucket}/{key}"),
        }
    }
}

impl Location {
    pub fn uri(&self) -> String {
        self.place.uri(self.path.as_ref())
    }
}

/// Takes a URI apart: a plain path, `file://` or `s3://bucket/key`.
pub(crate) fn parse(uri: &str) -> Result<Parsed, StoreError> {
    let refuse = |reason: &str| StoreError::BadUri {
        uri: shown(uri),
        reason: reason.to_owned(),
    };
    if uri.is_empty() {
        return Err(refuse("it is empty"));
    }
    if let Some(rest) = in_s3(uri) {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if has_secret(bucket) {
            return Err(refuse(
                "its bucket holds an @ or a :, and so, it seems, a key and its secret: name the bucket alone, as in s3://bucket/path, and give \
                 the keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ));
        }
        if bucket.is_empty() || bucket.contains('*') {
            return Err(refuse("the bucket must be named, as in s3://bucket/path"));
        }
        if !bucket.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
            return Err(refuse("the name of a bucket has letters, digits, -, . and _ alone"));
        }
        return Ok(Parsed {
            place: Place::S3 {
                bucket: bucket.to_owned(),
            },
            key: key.trim_matches('/').to_owned(),
        });
    }
    let path = if uri.starts_with("file:") {
        let url = url::Url::parse(uri).map_err(|error| refuse(&error.to_string()))?;
        if url.fragment().is_some() || url.query().is_some() {
            return Err(refuse(
                "in a file URI a # or a ? ends the name: write %23 or %3F for it, or a plain path",
            ));
        }
        url.to_file_path()
            .map_err(|()| refuse("a file URI has no host: file:///path"))?
    } else if let Some((scheme, _)) = uri.split_once("://") {
        return Err(refuse(&format!(
            "\"{scheme}\" is not supported: use a path, file:// or s3://"
        )));
    } else {
        PathBuf::from(uri)
    };
    let absolute = without_dots(&std::path::absolute(&path).map_err(|e| refuse(&e.to_string()))?);
    let key = absolute.to_str().ok_or_else(|| refuse("its name is not UTF-8"))?;
    if let Some((begun, scheme)) = begun_as_uri(&absolute) {
        return Err(StoreError::BadUri {
            // What follows may be a key and its secret.
            uri: format!("{begun}..."),
            reason: format!(
                "nothing is there under such a name, and a URI goes on with two slashes: write {scheme}://"
            ),
        });
    }
    if let Some(part) = meant_for_a_shell(&absolute) {
        return Err(refuse(&format!(
            "nothing is there under the name {part}, and only a shell takes that for another: write out what it stands for"
        )));
    }
    Ok(Parsed {
        place: Place::Local,
        key: key.trim_matches('/').to_owned(),
    })
}

/// What follows `s3://`, where a URI begins so.
pub(crate) fn in_s3(uri: &str) -> Option<&str> {
    uri.strip_prefix("s3://").or_else(|| uri.strip_prefix("s3a://"))
}

/// Whether a bucket is named together with keys, as in `s3://key:secret@bucket`; no bucket has such a name.
fn has_secret(bucket: &str) -> bool {
    bucket.contains(['@', ':'])
}

/// A URI as an error may repeat it: without user, password and signature. A path may have any name.
fn shown(uri: &str) -> String {
    if let Some(rest) = in_s3(uri) {
        // A secret may have slashes.
        return match has_secret(rest.split('/').next().unwrap_or_default()) {
            true => "s3://***".to_owned(),
            false => uri.to_owned(),
        };
    }
    match uri.split_once("://") {
        Some((scheme, rest)) if scheme != "file" => {
            let named = rest.split(['?', '#']).next().unwrap_or_default();
            let named = named.rsplit_once('@').map_or(named, |(_, named)| named);
            format!("{scheme}://{named}")
        }
        _ => uri.to_owned(),
    }
}

/// The first part of a path that a shell would replace, as in `~/spectra` or `$HOME/spectra`, where nothing has that very name.
fn meant_for_a_shell(path: &std::path::Path) -> Option<String> {
    let part = path.ancestors().find(|part| {
        let name = part.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_variable = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphabetic() || "_{".contains(c));
        name == "~" || name.strip_prefix('$').is_some_and(is_variable)
    })?;
    let name = part.file_name()?.to_str()?.to_owned();
    part.symlink_metadata().is_err().then_some(name)
}

/// A path up to the first colon behind which it could go on as a URI (`s3:/bucket`, `file:out`), and the scheme, where nothing has that very name.
fn begun_as_uri(path: &std::path::Path) -> Option<(String, &'static str)> {
    let begun = path.ancestors().filter_map(|part| {
        let (said, _) = part.file_name()?.to_str()?.split_once(':')?;
        let scheme = SCHEMES.iter().find(|scheme| said.eq_ignore_ascii_case(scheme))?;
        let begun = part.with_file_name(format!("{said}:"));
        part.symlink_metadata()
            .is_err()
            .then(|| (begun.display().to_string(), *scheme))
    });
    begun.last()
}

/// What the names of the objects of a URI start from: the folders before any `*`, absolute.
///
/// # Errors
/// It is no URI.
pub fn folder_of(uri: &str) -> Result<String, StoreError> {
    let parsed = parse(uri)?;
    let folders = parsed.key.split('/').take_while(|part| !part.contains('*'));
    let key = folders.collect::<Vec<_>>().join("/");
    Ok(parsed.place.uri(&key))
}

/// The path in the store.
pub(crate) fn store_path(parsed: &Parsed) -> Result<Path, StoreError> {
    Path::parse(&parsed.key).map_err(|error| StoreError::BadUri {
        uri: parsed.place.uri(&parsed.key),
        reason: error.to_string(),
    })
}

/// The path without `..`: the directory before it is resolved first where it exists, since it may be a link.
fn without_dots(path: &std::path::Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                if let Ok(real) = clean.canonicalize() {
                    clean = real;
                }
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// A path on a disk, without its leading slash, with the links in the part of it that is there followed.
pub(crate) fn without_links(key: &str) -> String {
    let path = format!("/{key}");
    let path = std::path::Path::new(&path);
    let followed = path.ancestors().find_map(|there| {
        let rest = path.strip_prefix(there).ok()?;
        Some(there.canonicalize().ok()?.join(rest))
    });
    let followed = followed.as_deref().unwrap_or(path).to_string_lossy();
    followed.trim_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_apart() {
        let s3 = parse("s3://survey/dr17/*.parquet").unwrap();
        assert_eq!((s3.place.uri(&s3.key)), "s3://survey/dr17/*.parquet");
        let local = parse("/data/../tmp/./a.parquet").unwrap();
        assert_eq!(local.place.uri(&local.key), "/tmp/a.parquet");
        assert_eq!(parse("file:///tmp/a%20b").unwrap().key, "tmp/a b");
        assert!(parse("relative/x").unwrap().key.ends_with("relative/x"));
        for bucket in ["su rv", "s%75rv", "süden", "surv\n"] {
            let said = parse(&format!("s3://{bucket}/dr17")).unwrap_err().to_string();
            assert!(said.contains("letters, digits"), "{said}");
        }
    }

    #[test]
    fn what_a_shell_would_replace_is_refused_unless_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["~", "$HOME", "${DATA}"] {
            let uri = format!("{}/{name}/x.parquet", folder.path().display());
            let said = parse(&uri).unwrap_err().to_string();
            assert!(said.contains(name) && said.contains("write out"), "{said}");
            std::fs::create_dir(folder.path().join(name)).unwrap();
            parse(&uri).unwrap();
        }
        for uri in ["s3://survey/~/x", "/data/a~", "/data/~b", "/data/$1", "/data/a$b"] {
            parse(uri).unwrap();
        }
    }

    #[test]
    fn a_uri_without_its_slashes_is_no_folder_of_that_name() {
        let folder = tempfile::tempdir().unwrap();
        for (name, meant) in [
            ("s3:/key:hunter2@survey/file:", "s3://"),
            ("s3:survey", "s3://"),
            ("S3A:/survey", "s3a://"),
            ("gs:/survey", "gs://"),
            ("file:out", "file://"),
        ] {
            let uri = format!("{}/{name}/x.parquet", folder.path().display());
            let said = parse(&uri).unwrap_err().to_string();
            assert!(said.contains(&format!("write {meant}")), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
            parse(&uri).unwrap();
        }
        assert!(parse("s3:survey/x.parquet").is_err());
        for uri in [
            "s3://survey/file:/x",
            "/data/night=s3:1/x",
            "/data/10:00/x",
            "/data/s3/x",
            "/data/s3",
        ] {
            parse(uri).unwrap();
        }
    }

    #[test]
    fn names_start_below_the_folders_without_wildcards() {
        assert_eq!(folder_of("s3://survey/dr17/*.parquet").unwrap(), "s3://survey/dr17");
        assert_eq!(folder_of("/data/dr17/night=*/**").unwrap(), "/data/dr17");
        assert_eq!(folder_of("/data/dr17/").unwrap(), "/data/dr17");
    }

    #[test]
    fn secrets_in_a_uri_are_not_repeated() {
        for uri in [
            "s3://AKIAHUNTER:hunter2@survey/training",
            "s3a://AKIAHUNTER:hun/hunter2@survey/training",
            "s3://AKIAHUNTER:hunter2/training",
            "https://AKIAHUNTER:hunter2@host/survey/a.parquet",
            "https://host/survey/a.parquet?X-Amz-Credential=AKIAHUNTER&X-Amz-Signature=hunter2",
        ] {
            let said = parse(uri).unwrap_err().to_string();
            assert!(!said.contains("hunter2") && !said.contains("AKIAHUNTER"), "{said}");
        }
        let said = parse("https://host/a.parquet?X-Amz-Signature=1")
            .unwrap_err()
            .to_string();
        assert!(said.contains("\"https://host/a.parquet\""), "{said}");
        parse("s3://survey/night=2024-01-01T10:00/a@b.parquet").unwrap();
    }

    #[test]
    fn other_schemes_are_refused() {
        assert!(
            parse("gs://b/k")
                .unwrap_err()
                .to_string()
                .contains("\"gs\" is not supported")
        );
        assert!(parse("s3:///k").is_err());
        for uri in [
            "file:///data/night#2",
            "file:///data/night?",
            "file:///data/n?ght/*.parquet",
        ] {
            let said = parse(uri).unwrap_err().to_string();
            assert!(said.contains(uri) && said.contains("%23"), "{said}");
        }
        assert_eq!(parse("file:///data/night%232").unwrap().key, "data/night#2");
        assert_eq!(parse("/data/night#2").unwrap().key, "data/night#2");
        assert!(parse("").is_err());
    }
}
