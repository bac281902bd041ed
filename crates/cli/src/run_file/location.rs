//! Where a run file points: URIs as they are, paths relative to the run file's own folder.

use std::path::{Component, Path, PathBuf};

/// The folder that relative paths start from.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder of a run file.
    ///
    /// # Errors
    /// The folder does not exist, or may not be read.
    pub fn of(run_file: &Path) -> std::io::Result<Self> {
        let parent = match run_file.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        Ok(Self(parent.canonicalize()?))
    }

    /// The folder that relative paths on the command line start from.
    ///
    /// # Errors
    /// The current folder was removed, or may not be read.
    pub fn current() -> std::io::Result<Self> {
        Ok(Self(std::env::current_dir()?))
    }

    /// A URI as it is; a path made absolute, with `.` and `..` taken out.
    pub fn locate(&self, uri: &str) -> String {
        if has_scheme(uri) {
            return uri.to_owned();
        }
        let mut absolute = PathBuf::new();
        for part in self.0.join(uri).components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => {
                    absolute.pop();
                }
                other => absolute.push(other),
            }
        }
        absolute.to_string_lossy().into_owned()
    }
}

/// Whether `uri` begins with `scheme://` (RFC 3986: a letter, then letters, digits, `+`, `-` and `.`).
fn has_scheme(uri: &str) -> bool {
    uri.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_from_the_folder_and_uris_do_not() {
        let folder = Folder(PathBuf::from("/survey/pipelines"));
        for (said, meant) in [
            ("out/spex", "/survey/pipelines/out/spex"),
            ("./out", "/survey/pipelines/out"),
            ("../data/*.parquet", "/survey/data/*.parquet"),
            ("/abs/x.parquet", "/abs/x.parquet"),
            ("s3://b/k/*.parquet", "s3://b/k/*.parquet"),
            ("file:///abs/x", "file:///abs/x"),
            ("odd name://x", "/survey/pipelines/odd name:/x"),
        ] {
            assert_eq!(folder.locate(said), meant);
        }
    }
}
