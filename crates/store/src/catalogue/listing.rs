//! What a URI names, and what a plain list of it would leave unsaid: links that lead nowhere, folders named as objects are, and folders that are not
//! looked into.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path as FilePath, PathBuf};

use fisherflow_spectra::ObjectVersion;
use futures::StreamExt;
use object_store::path::Path;

use crate::catalogue::pattern::{Pattern, is_unread};
use crate::objects::destination::dangling_link;
use crate::objects::location::{Location, Parsed, Place, parse};
use crate::objects::stores::version;
use crate::output::{CLAIM, DATA, MANIFEST};
use crate::{Line, StoreError, Stores};

/// Folders that are looked into for objects that a URI does not name.
const FOLDERS: usize = 16;
/// Objects of such a folder that are looked at.
const LOOKED_AT: usize = 1000;

/// What a URI names.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The objects, by path.
    pub objects: Vec<ObjectVersion>,
    /// What could be an object and cannot be read as one, by path, and what to say of it: links on a disk that lead nowhere, where a folder of objects
    /// could be, too; folders of objects that the URI does not name.
    pub refused: Vec<(String, StoreError)>,
    /// Finished outputs that some of the objects are in, by URI; none that the URI names itself, or of which it names the folder of a table.
    outputs: Vec<String>,
    /// The folders beside the objects, where the URI names the folder of them all.
    folders: Vec<Location>,
}

impl Listing {
    /// Refuses each finished output as one, in place of its files.
    pub fn refuse_outputs(&mut self, uri: &str) {
        for output in std::mem::take(&mut self.outputs) {
            let folder = format!("{output}/");
            self.objects.retain(|object| !object.path.starts_with(&folder));
            let error = StoreError::OutputAmongObjects {
                output: output.clone(),
                uri: uri.to_owned(),
            };
            self.refused.push((output, error));
        }
        self.refused.sort_by(|(one, _), (other, _)| one.cmp(other));
    }

    /// The pattern that reads the `*.parquet` of folders which the URI does not reach, outputs aside; `None` where a short look finds none.
    pub fn left_out_of(&self, uri: &str, stores: &Stores) -> Option<String> {
        let mut folders = self.folders.iter().take(FOLDERS);
        let holds_more = |folder| stores.block_on(holds_parquet_of_no_output(folder)) && !is_output(folder, stores);
        let found = folders.any(holds_more);
        found.then(|| format!("{}/**/*.parquet", uri.trim_end_matches('/')))
    }
}

/// What to say where a URI names no object. `left_out`: the pattern by which it would.
pub(crate) fn remedy(left_out: Option<&str>) -> String {
    match left_out {
        Some(pattern) => format!("its *.parquet are in folders below, which {pattern} reads"),
        None => "name an object, a directory of *.parquet, or a pattern with *; what begins with . or _ is read only where it \
                 is named so"
            .to_owned(),
    }
}

impl Stores {
    /// The objects that a URI names, by path: the object itself, the `*.parquet` directly in a directory, or, where the URI holds `*`,
    /// those that match (`*` within one part of the path, `**` over any number of parts; what begins with `.` or `_` only where the pattern has it
    /// so). Empty where nothing matches.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn list(&self, uri: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        Ok(self.listing(uri)?.objects)
    }

    /// What [`Stores::list`] finds, and what it leaves out.
    pub(crate) fn listing(&self, uri: &str) -> Result<Listing, StoreError> {
        let parsed = parse(uri)?;
        if parsed.key.contains('*') {
            let listing = self.matching(uri, &parsed)?;
            return Ok(Listing {
                folders: Vec::new(),
                ..listing
            });
        }
        // What a store says of a bucket itself looks like an object of no bytes.
        if !uri.ends_with('/')
            && !parsed.key.is_empty()
            && let Some(object) = self.head(uri)?
        {
            return Ok(Listing {
                objects: vec![object],
                ..Listing::default()
            });
        }
        let uri = format!("{}/*.parquet", uri.trim_end_matches('/'));
        self.matching(&uri, &parse(&uri)?)
    }

    fn matching(&self, uri: &str, parsed: &Parsed) -> Result<Listing, StoreError> {
        let pattern = Pattern::of(uri, &parsed.key)?;
        let parts: Vec<&str> = parsed.key.split('/').collect();
        let (literal, chosen) = parts.split_at(pattern.literal);
        let deep = chosen.len() > 1 || parsed.key.contains("**");
        let base = self.locate(&parsed.place.uri(&literal.join("/")))?;
        let (metas, folders) = if deep {
            (self.block_on(self.list_under(&base))?, Vec::new())
        } else {
            self.block_on(self.list_in(&base))?
        };
        let folders: Vec<Location> = folders
            .into_iter()
            .map(|path| Location { path, ..base.clone() })
            .collect();
        let all: BTreeSet<&str> = metas.iter().map(|meta| meta.location.as_ref()).collect();
        let mut objects: Vec<ObjectVersion> = metas
            .iter()
            .filter(|meta| pattern.reads(meta.location.as_ref()))
            .map(|meta| version(&base.place, meta))
            .collect();
        objects.sort();
        let above: &str = base.path.as_ref();
        let outputs = outputs_among(&all)
            .filter(|folder| folder.len() > above.len())
            .map(|folder| base.place.uri(folder));
        // As in `runs/*/predictions/*.parquet`, which is to read tables of outputs.
        let names_table = |path: &str| {
            let table = path.split_once('/').map_or("", |(table, _)| table);
            DATA.contains(&table) && chosen.contains(&table)
        };
        let is_read = |output: &String| {
            let folder = format!("{output}/");
            let mut read = objects.iter().filter_map(|object| object.path.strip_prefix(&folder));
            read.any(|path| !names_table(path))
        };
        let outputs: Vec<String> = outputs.filter(is_read).collect();
        let mut links = Vec::new();
        if base.place == Place::Local {
            let folder = base.uri();
            match dangling_link(FilePath::new(&folder)) {
                Some(link) => links.push(link),
                None => dangling_below(FilePath::new(&folder), &pattern, &mut HashSet::new(), &mut links),
            }
        }
        links.retain(|(link, _)| !pattern.sets_aside(link.trim_start_matches('/')));
        let dangling = links.into_iter().map(|(link, target)| {
            let error = StoreError::DanglingObject {
                object: link.clone(),
                target,
            };
            (link, error)
        });
        let mut refused: Vec<(String, StoreError)> = dangling.collect();
        // As Spark writes a table: the pattern reads files, and would pass over it.
        let is_table = |folder: &str| folder.ends_with(".parquet") && pattern.reads(folder);
        let named = folders.iter().filter(|folder| is_table(folder.path.as_ref()));
        let mut tables: BTreeSet<&str> = self.block_on(holding_parquet(named)).into_iter().collect();
        let unread = all
            .iter()
            .filter(|name| name.ends_with(".parquet") && !pattern.reads(name));
        tables.extend(unread.filter_map(|name| table_above(name, is_table)));
        // Where the pattern chooses names, one of all folders would read others, too.
        let beside = uri.strip_suffix("/*.parquet");
        refused.extend(tables.into_iter().map(|table| {
            let folder = base.place.uri(table);
            let error = StoreError::FolderOfObjects {
                folder: folder.clone(),
                uri: uri.to_owned(),
                pattern: beside.map(|folders| format!("{folders}/**/*.parquet")),
            };
            (folder, error)
        }));
        refused.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Listing {
            objects,
            refused,
            outputs,
            folders,
        })
    }
}

/// Collects the links below a folder that lead nowhere, and what they lead to, where a pattern leads to them. `linked`: folders that a link
/// has led to, each looked into once, for links may lead in circles.
fn dangling_below(
    folder: &FilePath,
    pattern: &Pattern,
    linked: &mut HashSet<PathBuf>,
    found: &mut Vec<(String, String)>,
) {
    // A folder that cannot be read has ended the listing before.
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        if !pattern.leads_to(name) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_symlink() => match dangling_link(&path) {
                Some(link) => found.push(link),
                None if path.is_dir() && path.canonicalize().is_ok_and(|real| linked.insert(real)) => {
                    dangling_below(&path, pattern, linked, found);
                }
                None => {}
            },
            Ok(kind) if kind.is_dir() => dangling_below(&path, pattern, linked, found),
            _ => {}
        }
    }
}

/// The finished outputs of a listing.
fn outputs_among<'n>(all: &BTreeSet<&'n str>) -> impl Iterator<Item = &'n str> {
    let folders = all
        .iter()
        .filter_map(|name| name.strip_suffix(MANIFEST)?.strip_suffix('/'));
    folders.filter(move |folder| all.contains(format!("{folder}/{CLAIM}").as_str()))
}

/// The outermost folder above an object that is a table, unless the object is hidden or set aside in it.
fn table_above(name: &str, is_table: impl Fn(&str) -> bool) -> Option<&str> {
    let mut folders = name.match_indices('/').map(|(at, _)| name.split_at(at));
    let (table, rest) = folders.find(|(folder, _)| is_table(folder))?;
    (!rest.split('/').any(is_unread)).then_some(table)
}

/// Those of the folders that hold `*.parquet`, by name.
async fn holding_parquet<'f>(folders: impl Iterator<Item = &'f Location>) -> Vec<&'f str> {
    let asked = futures::stream::iter(folders).map(|folder| async move {
        let name: &str = folder.path.as_ref();
        holds_parquet(folder).await.then_some(name)
    });
    asked.buffered(FOLDERS).filter_map(std::future::ready).collect().await
}

/// A store that does not say is asked again where it matters.
async fn holds_parquet(folder: &Location) -> bool {
    let mut objects = folder.store.list(Some(&folder.path)).take(LOOKED_AT);
    while let Some(Ok(object)) = objects.next().await {
        if is_parquet_in(folder, &object.location) {
            return true;
        }
    }
    false
}

/// The same, of those that are in no output below. A disk lists in no order: what tells of an output may come behind its tables.
async fn holds_parquet_of_no_output(folder: &Location) -> bool {
    let mut objects = folder.store.list(Some(&folder.path)).take(LOOKED_AT);
    let mut found: Vec<Path> = Vec::new();
    while let Some(Ok(object)) = objects.next().await {
        found.push(object.location);
    }
    let names = found.iter().map(AsRef::<str>::as_ref);
    let of_claims = names.filter_map(|name| name.strip_suffix(CLAIM));
    let outputs: Vec<&str> = of_claims.filter(|folder| folder.ends_with('/')).collect();
    let is_of_output = |name: &str| outputs.iter().any(|output| name.starts_with(output));
    let mut tables = found.iter().filter(|object| is_parquet_in(folder, object));
    tables.any(|table| !is_of_output(table.as_ref()))
}

/// Whether an object below a folder is of those `*.parquet` that patterns read there.
fn is_parquet_in(folder: &Location, object: &Path) -> bool {
    // The folder itself may be set aside, too.
    let above = folder.path.parts().count().saturating_sub(1);
    let name: &str = object.as_ref();
    let mut parts = name.split('/').skip(above);
    // Its own marker is none of what it holds.
    *object != folder.path && object.extension() == Some("parquet") && !parts.any(is_unread)
}

/// Whether a folder is an output, or a line of them. A store that does not say is asked again where it matters.
fn is_output(folder: &Location, stores: &Stores) -> bool {
    let uri = folder.uri();
    let releases = || Line::open(stores, &uri)?.releases();
    stores.exists(&format!("{uri}/{CLAIM}")).unwrap_or(false) || releases().is_ok_and(|releases| !releases.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::StoreOptions;

    /// Stores with a bucket `survey`, in memory.
    fn with_bucket() -> Stores {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let mut buckets = stores.inner.s3.lock().unwrap();
        buckets.insert("survey".to_owned(), Arc::new(InMemory::new()));
        drop(buckets);
        stores
    }

    #[test]
    fn a_bucket_is_a_folder() {
        let stores = with_bucket();
        // As stores answer when the bucket itself is asked for.
        stores.write("s3://survey", Vec::new()).unwrap();
        for name in ["a.parquet", "b.txt", "night/c.parquet"] {
            stores.write(&format!("s3://survey/{name}"), vec![1]).unwrap();
        }
        for uri in ["s3://survey", "s3://survey/"] {
            let listed = stores.list(uri).unwrap();
            let names: Vec<&str> = listed.iter().map(|object| object.path.as_str()).collect();
            assert_eq!(names, ["s3://survey/a.parquet"], "{uri}");
        }
    }

    #[test]
    fn a_folder_with_a_marker_is_not_passed_over() {
        let stores = with_bucket();
        for (name, bytes) in [("a.parquet", 1), ("b.parquet", 0), ("b.parquet/part-0.parquet", 1)] {
            let uri = format!("s3://survey/night/{name}");
            stores.write(&uri, vec![1; bytes]).unwrap();
        }
        let listing = stores.listing("s3://survey/*/*.parquet").unwrap();
        let objects: Vec<&str> = listing.objects.iter().map(|object| object.path.as_str()).collect();
        assert_eq!(objects, ["s3://survey/night/a.parquet"]);
        let refused: Vec<&str> = listing.refused.iter().map(|(folder, _)| folder.as_str()).collect();
        assert_eq!(refused, ["s3://survey/night/b.parquet"]);
        assert!(stores.listing("s3://survey/**/*.parquet").unwrap().refused.is_empty());
    }

    #[test]
    fn what_is_set_aside_is_read_where_the_pattern_names_it() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("_survey");
        for name in [
            "a.parquet",
            "_b.parquet",
            "night=1/c.parquet",
            "_year=2024/d.parquet",
            "night=1/_temporary/0/e.parquet",
            "_delta_log/f.parquet",
        ] {
            stores.write(root.join(name).to_str().unwrap(), vec![1]).unwrap();
        }
        let named = |pattern: &str| -> Vec<String> {
            let listed = stores.list(root.join(pattern).to_str().unwrap()).unwrap();
            let name = |path: &str| {
                path.rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches(".parquet")
                    .to_owned()
            };
            listed.iter().map(|object| name(&object.path)).collect()
        };
        assert_eq!(named("**/*.parquet"), ["d", "a", "c"]);
        assert_eq!(named(""), ["a"]);
        assert_eq!(named("_*.parquet"), ["_b"]);
        assert_eq!(named("_delta_log"), ["f"]);
        assert_eq!(named("**/_temporary/**/*.parquet"), ["e"]);
        assert_eq!(named("_b.parquet"), ["_b"]);

        // Nor is a folder of them offered.
        let listing = |name: &str| {
            let uri = root.join(name).to_str().unwrap().to_owned();
            stores.listing(&uri).unwrap().left_out_of(&uri, &stores)
        };
        assert!(listing("").is_some());
        stores.delete(root.join("night=1/c.parquet").to_str().unwrap()).unwrap();
        assert!(listing("night=1").is_none());
    }

    #[test]
    fn tables_of_outputs_are_read_where_the_pattern_names_their_folder() {
        let stores = with_bucket();
        for name in ["claim.json", "manifest.json", "predictions/part-00000.parquet"] {
            stores.write(&format!("s3://survey/runs/1/{name}"), vec![1]).unwrap();
        }
        for (pattern, outputs) in [
            ("**/*.parquet", 1),
            ("runs/*/*/*.parquet", 1),
            ("runs/*/pred*/*.parquet", 1),
            ("runs/*/predictions/*.parquet", 0),
            ("**/predictions/**", 0),
        ] {
            let listing = stores.listing(&format!("s3://survey/{pattern}")).unwrap();
            assert_eq!(
                (listing.objects.len(), listing.outputs.len()),
                (1, outputs),
                "{pattern}"
            );
        }
    }

    #[test]
    fn an_output_beside_the_objects_is_not_offered_as_more_of_them() {
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let offered = || {
            let listing = stores.listing(&at("")).unwrap();
            listing.left_out_of(&at(""), &stores).is_some()
        };
        for (table, sign) in [
            ("out/predictions/part-00000.parquet", "out/claim.json"),
            ("line/releases/1/predictions/part-00000.parquet", "line/commits/1.json"),
            ("runs/night/predictions/part-00000.parquet", "runs/night/claim.json"),
        ] {
            stores.write(&at(table), vec![1]).unwrap();
            assert!(offered(), "{table}");
            stores.write(&at(sign), b"{}".to_vec()).unwrap();
            assert!(!offered(), "{table}");
        }
        stores.write(&at("runs/spectra.parquet"), vec![1]).unwrap();
        assert!(offered());
    }
}
