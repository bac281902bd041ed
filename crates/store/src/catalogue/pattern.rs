//! What a URI names, as far as its words say it: which objects it would read, whether they are there yet or not.

use crate::objects::location::{Place, parse, without_links};
use crate::{StoreError, Stores};

/// Files of every kind that an output has, by path in it or in a release of it.
const OF_AN_OUTPUT: [&str; 5] = [
    "predictions/part-00000.parquet",
    "jacobians/part-00000.parquet",
    "posterior/blocks.parquet",
    "posterior/inverse/block-000.parquet",
    "manifest.json",
];

/// The key of a URI that holds `*`.
pub(super) struct Pattern {
    /// How many of its parts come before any `*`: these are named.
    pub literal: usize,
    /// Of the folders on the way behind those, and last of the objects.
    up_to: Vec<glob::Pattern>,
    /// Its parts that begin as what [`is_set_aside`].
    named: Vec<glob::Pattern>,
}

impl Pattern {
    /// The pattern of a key; `uri` is what was said.
    pub fn of(uri: &str, key: &str) -> Result<Self, StoreError> {
        let parts: Vec<&str> = key.split('/').collect();
        let literal = parts.iter().take_while(|part| !part.contains('*')).count();
        let glob = |key: &str| {
            glob_pattern(key).map_err(|reason| StoreError::BadUri {
                uri: uri.to_owned(),
                reason,
            })
        };
        let up_to = (literal + 1..=parts.len()).map(|n| glob(&parts[..n].join("/")));
        let named = parts[literal..].iter().filter(|part| part.starts_with('_'));
        Ok(Self {
            literal,
            up_to: up_to.collect::<Result<_, _>>()?,
            named: named.map(|part| glob(part)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether an object of that name is read.
    pub fn reads(&self, name: &str) -> bool {
        self.up_to.last().is_some_and(|objects| fits(objects, name)) && !self.sets_aside(name)
    }

    /// Whether something of that name is not read, though the pattern fits it: a part of it [`is_set_aside`], and none of the pattern begins so
    /// and fits it.
    pub fn sets_aside(&self, name: &str) -> bool {
        let mut parts = name.split('/').skip(self.literal);
        parts.any(|part| is_set_aside(part) && !self.named.iter().any(|named| fits(named, part)))
    }

    /// Whether the pattern fits that name, or that of something below it may.
    pub fn leads_to(&self, name: &str) -> bool {
        self.up_to.iter().any(|pattern| fits(pattern, name))
    }
}

impl Stores {
    /// Whether the objects that a URI names would be, among others, those of an output at `output`, whether that is there yet or not.
    ///
    /// # Errors
    /// One of them is no URI.
    pub fn reads_output(&self, uri: &str, output: &str) -> Result<bool, StoreError> {
        parse(output)?;
        let output = output.trim_end_matches('/');
        for folder in [output.to_owned(), format!("{output}/releases/1")] {
            for file in OF_AN_OUTPUT {
                if self.reads(uri, &format!("{folder}/{file}"))? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// A folder, or the one above it, that has the name of an object that a URI names beside others: with tables in it, it would be refused as one, or
    /// left out.
    ///
    /// # Errors
    /// One of them is no URI.
    pub fn takes_for_object<'f>(&self, uri: &str, folder: &'f str) -> Result<Option<&'f str>, StoreError> {
        let pattern = match parse(uri)?.key.contains('*') {
            true => uri.to_owned(),
            false => format!("{}/*.parquet", uri.trim_end_matches('/')),
        };
        let folder = folder.trim_end_matches('/');
        let above = folder.match_indices('/').map(|(at, _)| &folder[..at]);
        for folder in above.chain([folder]).filter(|folder| folder.ends_with(".parquet")) {
            if self.reads(&pattern, folder)? {
                return Ok(Some(folder));
            }
        }
        Ok(None)
    }

    /// Whether an object of that place would be one of those that a URI names, whether it is there yet or not.
    ///
    /// # Errors
    /// One of them is no URI.
    pub fn reads(&self, uri: &str, object: &str) -> Result<bool, StoreError> {
        let (named, object) = (parse(uri)?, parse(object)?);
        if named.place != object.place {
            return Ok(false);
        }
        let mut keys = vec![(named.key.clone(), object.key.clone())];
        if named.place == Place::Local {
            keys.push((without_links(&named.key), without_links(&object.key)));
        }
        for (named, object) in keys {
            if named == object {
                return Ok(true);
            }
            let pattern = match named.contains('*') {
                true => named,
                false => format!("{named}/*.parquet"),
            };
            if Pattern::of(uri, &pattern)?.reads(&object) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether no pattern reads it but one that has it so.
pub(super) fn is_unread(part: &str) -> bool {
    part.starts_with('.') || is_set_aside(part)
}

/// Whether a file or folder is none of the table beside it, as Spark and pyarrow have it: `_temporary`, `_delta_log`. A column may begin so, too.
fn is_set_aside(part: &str) -> bool {
    part.starts_with('_') && !part.contains('=')
}

fn fits(pattern: &glob::Pattern, name: &str) -> bool {
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    pattern.matches_with(name, options)
}

/// Only `*` is special: the other wildcards of the shell are ordinary characters of names.
fn glob_pattern(key: &str) -> Result<glob::Pattern, String> {
    let mut escaped = String::with_capacity(key.len());
    for c in key.chars() {
        match c {
            '?' | '[' | ']' => {
                escaped.push('[');
                escaped.push(c);
                escaped.push(']');
            }
            c => escaped.push(c),
        }
    }
    glob::Pattern::new(&escaped).map_err(|error| error.msg.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    #[test]
    fn a_catalogue_that_reads_an_output_is_known_before_there_is_one() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let reads = |uri: &str, output: &str| stores.reads_output(uri, output).unwrap();
        for (uri, output) in [
            ("/io/**/*.parquet", "/io/out"),
            ("/io/**/*.parquet", "/io/a/b/out/"),
            ("/io/**", "/io"),
            ("/io/**/_*/**/*.parquet", "/io/_out"),
            ("/io/_out/**", "/io/_out"),
            ("/io/*/*/*.parquet", "/io/out"),
            ("/io/o*/predictions/*", "/io/out"),
            ("/io/out/predictions", "/io/out"),
            ("/io/out/posterior/", "/io/../io/out"),
            ("/io/**/block-*.parquet", "/io/out"),
            ("/io/line/releases/*/*/*.parquet", "/io/line"),
            ("s3://survey/**/*.parquet", "s3://survey/errors"),
        ] {
            assert!(reads(uri, output), "{uri} reads {output}");
        }
        for (uri, output) in [
            ("/io/*.parquet", "/io/out"),
            ("/io", "/io/out"),
            ("/io/", "/io"),
            ("/io/*/*.parquet", "/io/out"),
            ("/io/**/apStar-*.parquet", "/io/out"),
            ("/io/**/*.parquet", "/io/_out"),
            ("/io/spectra/**/*.parquet", "/io/out"),
            ("/io/**/*.parquet", "/iota/out"),
            ("s3://survey/**/*.parquet", "s3://other/errors"),
            ("s3://survey/**/*.parquet", "/survey/errors"),
        ] {
            assert!(!reads(uri, output), "{uri} does not read {output}");
        }
    }

    #[test]
    fn a_catalogue_reads_a_file_that_its_uri_fits() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        for (uri, object, is_read) in [
            ("/io", "/io/density.parquet", true),
            ("/io/a.parquet", "/io/../io/a.parquet", true),
            ("/io/*.parquet", "/io/density.parquet", true),
            ("s3://survey/**/*.parquet", "s3://survey/out/density.parquet", true),
            ("/io", "/io/out/density.parquet", false),
            ("/io/a.parquet", "/io/density.parquet", false),
            ("/io/apStar-*.parquet", "/io/density.parquet", false),
            ("/io/**/*.parquet", "/io/_out/density.parquet", false),
            ("s3://survey/**/*.parquet", "s3://other/density.parquet", false),
        ] {
            assert_eq!(stores.reads(uri, object).unwrap(), is_read, "{uri}, {object}");
        }
    }

    #[test]
    fn a_catalogue_takes_a_folder_for_an_object_by_its_name_and_the_names_above_it() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        for (uri, folder, taken) in [
            ("/io", "/io/out.parquet", Some("/io/out.parquet")),
            ("/io/", "/io/out.parquet/", Some("/io/out.parquet")),
            ("/io", "/io/out.parquet/a/b", Some("/io/out.parquet")),
            (
                "/io/*.parquet",
                "/io/../io/out.parquet/a",
                Some("/io/../io/out.parquet"),
            ),
            ("/io/*", "/io/out.parquet", Some("/io/out.parquet")),
            (
                "s3://survey/*/*.parquet",
                "s3://survey/night/out.parquet/a",
                Some("s3://survey/night/out.parquet"),
            ),
            ("/io", "/io/out", None),
            ("/io/*", "/io/out", None),
            ("/io", "/io/a/out.parquet", None),
            ("/io/apStar-*.parquet", "/io/out.parquet", None),
            ("/io", "/io/_out.parquet", None),
            // The catalogue's own folder is none of its objects.
            ("/io/night.parquet", "/io/night.parquet/out", None),
            ("s3://survey/*.parquet", "s3://other/out.parquet", None),
        ] {
            let found = stores.takes_for_object(uri, folder).unwrap();
            assert_eq!(found, taken, "{uri}, {folder}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_catalogue_reads_an_output_behind_a_link() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("disk")).unwrap();
        std::os::unix::fs::symlink(at("disk"), at("scratch")).unwrap();
        for (uri, output) in [
            ("disk/**/*.parquet", "scratch/out"),
            ("scratch/**/*.parquet", "disk/out"),
        ] {
            let [uri, output] = [uri, output].map(|name| at(name).to_str().unwrap().to_owned());
            assert!(stores.reads_output(&uri, &output).unwrap(), "{uri} reads {output}");
        }
    }
}
