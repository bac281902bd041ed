//! Places that something is about to be written to or read from as a folder: whether they can be that, and whether a file would be lost
//! there. Asked before anything is computed.

use std::io::ErrorKind;
use std::path::Path;

use crate::objects::location::{Location, Place};
use crate::output::{CLAIM, MANIFEST, REPORT};
use crate::{StoreError, Stores};

/// Folders above a file that may be an output: as many as there are above the deepest file of one.
const ABOVE: usize = 4;

impl Stores {
    /// Refuses to write a file where one is already, unless it may be overwritten, in a finished output, whose page alone may be drawn anew, and
    /// on a disk where none can be: at a folder, or below a link that leads nowhere.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::InOutput`], [`StoreError::DanglingLink`], [`StoreError::BadUri`] for a folder, or the store does not
    /// say.
    pub fn check_new(&self, uri: &str, overwrite: bool) -> Result<(), StoreError> {
        let location = self.locate(uri)?;
        if location.place == Place::Local {
            let file = location.uri();
            refuse_dangling_links(&file)?;
            if Path::new(&file).is_dir() {
                return Err(StoreError::BadUri {
                    uri: file,
                    reason: "it is a folder: name a file".to_owned(),
                });
            }
        }
        self.refuse_in_output(&location)?;
        if !overwrite && self.exists(uri)? {
            return Err(StoreError::Exists { uri: location.uri() });
        }
        Ok(())
    }

    /// Refuses a file among those of a finished output.
    fn refuse_in_output(&self, file: &Location) -> Result<(), StoreError> {
        let key: &str = file.path.as_ref();
        let above = std::iter::successors(key.rsplit_once('/'), |&(folder, _)| folder.rsplit_once('/'));
        for (folder, below) in above.take(ABOVE) {
            if below == REPORT {
                continue;
            }
            let output = file.place.uri(folder);
            let has = |name: &str| match self.exists(&format!("{output}/{name}")) {
                // Who may write to a folder need not be let into those above.
                Err(StoreError::Denied { .. }) => Ok(false),
                found => found,
            };
            if has(MANIFEST)? && has(CLAIM)? {
                let uri = file.uri();
                return Err(StoreError::InOutput { uri, output });
            }
        }
        Ok(())
    }

    /// Writes a file, all of it or nothing, where [`Stores::check_new`] does not refuse to: it may have come since it was asked first.
    ///
    /// # Errors
    /// As [`Stores::check_new`], or it cannot be written.
    pub fn write_new(&self, uri: &str, bytes: Vec<u8>, overwrite: bool) -> Result<(), StoreError> {
        self.check_new(uri, overwrite)?;
        self.write(uri, bytes)
    }

    /// Refuses what can be no folder on a disk: a file, or what lies below a link that leads nowhere. One that is not there may be made.
    ///
    /// # Errors
    /// [`StoreError::NotAFolder`], [`StoreError::DanglingLink`], or no location at all.
    pub fn check_folder(&self, uri: &str) -> Result<(), StoreError> {
        refuse_no_folder(&self.locate(uri)?)
    }
}

/// [`Stores::check_folder`] for a place that is located already.
pub(crate) fn refuse_no_folder(location: &Location) -> Result<(), StoreError> {
    if location.place != Place::Local {
        return Ok(());
    }
    let folder = location.uri();
    refuse_dangling_links(&folder)?;
    match Path::new(&folder).is_file() {
        true => Err(StoreError::NotAFolder { uri: folder }),
        false => Ok(()),
    }
}

/// Refuses a path that is, or leads over, a link to what is not there: the system says of it both that it exists and that it does not.
fn refuse_dangling_links(path: &str) -> Result<(), StoreError> {
    match dangling_link(Path::new(path)) {
        None => Ok(()),
        Some((link, target)) => Err(StoreError::DanglingLink {
            uri: path.to_owned(),
            link,
            target,
        }),
    }
}

/// The link to what is not there that a path is, or leads over, and what it leads to.
pub(crate) fn dangling_link(path: &Path) -> Option<(String, String)> {
    let dangling = |link: &&Path| {
        let leads_nowhere = std::fs::metadata(link).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        leads_nowhere && link.is_symlink()
    };
    let link = path.ancestors().find(dangling)?;
    let target = std::fs::read_link(link).map_or_else(|_| "nowhere".to_owned(), |target| target.display().to_string());
    Some((link.display().to_string(), target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    fn stores() -> Stores {
        Stores::new(StoreOptions::default(), 1).unwrap()
    }

    #[test]
    fn a_file_is_lost_only_where_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("network.safetensors");
        let uri = file.to_str().unwrap();
        stores().write_new(uri, b"trained".to_vec(), false).unwrap();
        let error = stores().write_new(uri, b"exported".to_vec(), false).unwrap_err();
        assert!(matches!(error, StoreError::Exists { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains(uri) && said.contains("--overwrite"), "{said}");
        assert_eq!(std::fs::read(&file).unwrap(), b"trained");
        stores().write_new(uri, b"exported".to_vec(), true).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"exported");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        let error = stores().check_new(folder.path().to_str().unwrap(), true).unwrap_err();
        assert!(error.to_string().contains("it is a folder"), "{error}");
    }

    #[test]
    fn a_finished_output_takes_no_file_but_its_page() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let asked = |name: &str| stores().check_new(&at(name), true);
        let inside = ["out/posterior/blocks.parquet", "out/v.npy", "out/a/b/c/v.npy"];
        for document in [MANIFEST, CLAIM] {
            for name in inside {
                asked(name).unwrap();
            }
            stores().write(&at(&format!("out/{document}")), b"{}".to_vec()).unwrap();
        }
        for name in inside.into_iter().chain(["out/posterior/report.html"]) {
            let error = asked(name).unwrap_err();
            assert!(matches!(error, StoreError::InOutput { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains(&at(name)) && said.contains(&at("out")), "{said}");
        }
        for name in ["out/report.html", "out-spectrum/summary.parquet", "v.npy"] {
            asked(name).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("scratch"), folder.path().join("not-mounted"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let below = link.join("a/x.npy");
        for uri in [&link, &below].map(|path| path.to_str().unwrap()) {
            for error in [
                stores().check_new(uri, false).unwrap_err(),
                stores().check_new(uri, true).unwrap_err(),
                stores().check_folder(uri).unwrap_err(),
            ] {
                let said = error.to_string();
                assert!(matches!(error, StoreError::DanglingLink { .. }), "{said}");
                assert!(
                    said.contains("scratch is a link to") && said.contains("not-mounted"),
                    "{said}"
                );
            }
        }
        std::fs::create_dir(&target).unwrap();
        stores().check_folder(link.to_str().unwrap()).unwrap();
        stores().write_new(below.to_str().unwrap(), vec![1], false).unwrap();
    }

    #[test]
    fn a_file_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        std::fs::write(&file, "version = 1").unwrap();
        let error = stores().check_folder(file.to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains("run.toml is a file"), "{error}");
        stores().check_folder(folder.path().to_str().unwrap()).unwrap();
        stores()
            .check_folder(folder.path().join("new").to_str().unwrap())
            .unwrap();
    }
}
