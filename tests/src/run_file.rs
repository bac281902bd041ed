//! Run files for the tests' catalogues.

use std::path::{Path, PathBuf};

use crate::binary::repository;

/// A run file over `network.safetensors` and catalogues of a folder, in the order of its tables.
#[derive(Clone, Debug)]
pub struct RunFile {
    /// `[network] uri`.
    pub network: String,
    /// `[catalogue] uri`.
    pub catalogue: String,
    /// `[predict] uri`; left out, the catalogue itself.
    pub predict: Option<String>,
    /// `[output] uri`.
    pub output: String,
    /// Further lines of `[catalogue]`.
    pub of_catalogue: String,
    /// Lines of `[curvature]`, its layers included.
    pub curvature: String,
    /// Lines of `[noise]`.
    pub noise: String,
    /// Lines of `[prior]`, its layers included.
    pub prior: String,
    /// Lines of `[compute]`.
    pub compute: String,
}

impl RunFile {
    /// A run over `<folder>/network.safetensors` and `<folder>/catalogue`, to `<folder>/<output>`.
    #[must_use]
    pub fn new(folder: &Path, output: &str) -> Self {
        Self {
            network: toml_path(&folder.join("network.safetensors")),
            catalogue: toml_path(&folder.join("catalogue")),
            predict: None,
            output: toml_path(&folder.join(output)),
            of_catalogue: String::new(),
            curvature: "structure = \"kfac\"".to_owned(),
            noise: "holdout_fraction = 0.25".to_owned(),
            prior: "precision = 2.0".to_owned(),
            compute: "batch = 16\ngroup = 50".to_owned(),
        }
    }

    /// The same with error bars for `<folder>/<name>`.
    #[must_use]
    pub fn predicting(mut self, folder: &Path, name: &str) -> Self {
        self.predict = Some(toml_path(&folder.join(name)));
        self
    }

    /// As TOML.
    #[must_use]
    pub fn toml(&self) -> String {
        let predict = self
            .predict
            .as_ref()
            .map_or(String::new(), |uri| format!("uri = \"{uri}\"\n"));
        format!(
            "version = 1\n\n\
             [network]\nuri = \"{}\"\n\n\
             [catalogue]\nuri = \"{}\"\nid = \"id\"\nflux = \"flux\"\nivar = \"ivar\"\nlabels = [\"teff\", \"logg\", \"fe_h\"]\n{}\n\n\
             [predict]\n{predict}jacobians = true\nkeep_columns = [\"visit\"]\n\n\
             [curvature]\n{}\n\n\
             [noise]\n{}\n\n\
             [prior]\n{}\n\n\
             [compute]\n{}\n\n\
             [output]\nuri = \"{}\"\n",
            self.network,
            self.catalogue,
            self.of_catalogue,
            self.curvature,
            self.noise,
            self.prior,
            self.compute,
            self.output
        )
    }

    /// Writes it to `<folder>/<name>.toml`.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let file = folder.join(format!("{name}.toml"));
        std::fs::write(&file, self.toml()).expect("a run file can be written");
        file
    }
}

/// A run file of `pipelines/` with its relative paths made absolute and another output, written to `<folder>/<name>`.
///
/// # Panics
/// There is none, or it names no relative output.
#[must_use]
pub fn pipeline(name: &str, folder: &Path, output: &Path) -> PathBuf {
    let original = repository().join("pipelines").join(name);
    let toml = std::fs::read_to_string(&original).unwrap_or_else(|error| panic!("{}: {error}", original.display()));
    let here = toml_path(&repository());
    let mut table = "";
    let lines: Vec<String> = toml
        .lines()
        .map(|line| {
            if line.starts_with('[') {
                table = line;
            }
            match (table, line.starts_with("uri = ")) {
                ("[output]", true) => format!("uri = \"{}\"", toml_path(output)),
                _ => line.replace("\"../", &format!("\"{here}/")),
            }
        })
        .collect();
    let copy = folder.join(name);
    std::fs::write(&copy, lines.join("\n")).expect("a run file can be written");
    assert!(
        lines.iter().any(|line| line.contains(&toml_path(output))),
        "{name} has no output"
    );
    copy
}

/// A path as it stands between quotes in TOML.
#[must_use]
pub fn toml_path(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"")
}
