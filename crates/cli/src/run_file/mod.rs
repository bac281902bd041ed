//! The run file: one TOML document that says everything a run depends on.
//!
//! What is read here is what was written: paths are still relative, and what only some commands need may be absent. `crate::resolve` turns
//! it into what is meant. Every error says file, line, key, what is expected and what to do.

mod catalogue;
mod certificate;
mod compute;
mod curvature;
mod entry;
mod error;
mod location;
mod nearest;
mod network;
mod noise;
mod output;
mod predict;
mod prior;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod train;

use std::path::Path;

use fisherflow_dataflow::{CatalogueSource, Certification, Compute, Curvature, NetworkSource};
use fisherflow_network::train::Recipe;
use fisherflow_spectra::FluxError;
use fisherflow_store::Patience;

pub use error::{At, RunFileError};
pub use location::Folder;
pub use noise::NoiseTable;
pub use output::OutputTable;
pub use predict::PredictTable;
pub use prior::PriorTable;

use catalogue::CatalogueKeys;
use noise::Fits;
use table::{Source, Table};

/// The version of the contract that this reads.
const VERSION: u64 = 1;

/// Keys of the root.
const KEYS: &[&str] = &[
    "version",
    "network",
    "catalogue",
    "predict",
    "curvature",
    "noise",
    "prior",
    "compute",
    "certificate",
    "output",
    "store",
    "train",
];

/// Every table and its keys, to say where a misplaced key belongs.
const TABLES: &[(&str, &[&str])] = &[
    ("network", network::KEYS),
    ("network.labels", network::LABEL_KEYS),
    ("catalogue", catalogue::KEYS),
    ("predict", predict::OWN_KEYS),
    ("curvature", curvature::KEYS),
    ("noise", noise::KEYS),
    ("prior", prior::KEYS),
    ("compute", compute::KEYS),
    ("certificate", certificate::KEYS),
    ("output", output::KEYS),
    ("store", store::KEYS),
    ("train", train::KEYS),
];

/// A run file as written.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFile {
    /// The file as the user named it, and the line that errors about absent tables point at.
    pub at: At,
    /// `[network]`.
    pub network: NetworkSource,
    /// `[catalogue]`.
    pub catalogue: CatalogueSource,
    /// `[predict]`; left out: the catalogue itself, without Jacobians.
    pub predict: PredictTable,
    /// `[curvature]`; left out: `auto`.
    pub curvature: Curvature,
    /// `[noise]`; left out: from a holdout of a tenth.
    pub noise: NoiseTable,
    /// `[prior]`; training does without.
    pub prior: Option<PriorTable>,
    /// `[compute]`, with what `[noise]` and `[curvature]` say of it; left out: batches of 512, one thread, groups of 4,096.
    pub compute: Compute,
    /// `[certificate]`; left out: a comparison on about 2,000 training spectra, fewer of many labels, and a pass over all of them.
    pub certificate: Certification,
    /// `[output]`; training does without.
    pub output: Option<OutputTable>,
    /// `[store]`; left out: a request is tried again for three minutes.
    pub store: Patience,
    /// `[train]`; only training needs it.
    pub train: Option<Recipe>,
}

impl RunFile {
    /// Reads a run file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or breaks the contract.
    pub fn read(path: &Path) -> Result<Self, RunFileError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&file, text),
            Err(source) => Err(RunFileError::Unreadable { file, source }),
        }
    }

    /// Reads the text of a run file that the user calls `file`.
    ///
    /// # Errors
    /// The text is not TOML, or breaks the contract.
    pub fn parse(file: &str, text: String) -> Result<Self, RunFileError> {
        let source = Source::new(file, text);
        let document = source.parse()?;
        let root = Table::root(&source, &document);
        check_version(&root)?;
        root.only(KEYS, TABLES)?;
        let tables = Tables { root: &root };

        let network = tables.required("network", network::KEYS)?;
        let network = network::read(&network)?;
        let (catalogue, fit) = read_catalogue(&tables, &network)?;
        let mut predict = PredictTable::default();
        let predict_keys: Vec<&str> = [catalogue::KEYS, predict::OWN_KEYS].concat();
        if let Some(table) = tables.optional("predict", &predict_keys)? {
            predict = PredictTable::read(&table, &fit, &catalogue)?;
        }
        let mut catalogue = catalogue;
        if predict.catalogue.is_none() {
            catalogue.columns.keep.clone_from(&predict.keep_columns);
        }
        let fits = Fits {
            labels: match catalogue.columns.labels.len() {
                0 => network::n_labels(&network),
                n => Some(n),
            },
            label_errors: fit.label_errors.is_some(),
            exact_inputs: catalogue.columns.error == FluxError::Exact,
        };
        let noise = match tables.optional("noise", noise::KEYS)? {
            Some(table) => NoiseTable::read(&table, fits)?,
            None => NoiseTable::default(),
        };
        if !noise.intrinsic_bins.is_empty() && catalogue.columns.labels.is_empty() {
            return Err(tables.required("catalogue", catalogue::KEYS)?.missing(
                "labels",
                "C_intrinsic by cell comes from held-out residuals: name the columns of labels, or leave [noise.intrinsic_bins] out",
            ));
        }
        if noise.covariance.is_none() && catalogue.columns.labels.is_empty() {
            return Err(tables.required("catalogue", catalogue::KEYS)?.missing(
                "labels",
                "the noise comes from held-out residuals: name the columns of labels, or give [noise] covariance = [[...]]",
            ));
        }
        let prior = match tables.optional("prior", prior::KEYS)? {
            Some(table) => Some(read_prior(&table, &noise, &catalogue)?),
            None => None,
        };
        let (curvature, memory) = tables
            .optional("curvature", curvature::KEYS)?
            .map_or_else(|| Ok((Curvature::default(), None)), |t| curvature::read(&t))?;
        let dual = curvature::may_be_dual(&curvature);
        let compute = tables
            .optional("compute", compute::KEYS)?
            .map_or_else(|| Ok(Compute::default()), |t| compute::read(&t, dual))?;
        let precision = compute.arithmetic.precision;
        let certificate = tables
            .optional("certificate", certificate::KEYS)?
            .map_or_else(|| Ok(Certification::default()), |t| read_certificate(&t, &catalogue))?;
        Ok(Self {
            at: root.at().clone(),
            network,
            catalogue,
            predict,
            curvature,
            compute: Compute {
                holdout_fraction: noise.holdout_fraction,
                farthest_input: noise.farthest_input,
                memory,
                ..compute
            },
            noise,
            prior,
            certificate,
            output: tables
                .optional("output", output::KEYS)?
                .map(|t| OutputTable::read(&t))
                .transpose()?,
            store: tables
                .optional("store", store::KEYS)?
                .map_or_else(|| Ok(Patience::default()), |t| store::read(&t))?,
            train: tables
                .optional("train", train::KEYS)?
                .map(|t| train::read(&t, precision))
                .transpose()?,
        })
    }

    /// `[prior]`.
    ///
    /// # Errors
    /// The file has none.
    pub fn prior(&self) -> Result<&PriorTable, RunFileError> {
        let remedy = format!("add it with precision; {}", prior::REMEDY);
        self.prior.as_ref().ok_or_else(|| self.absent("[prior]", &remedy))
    }

    /// `[output]`.
    ///
    /// # Errors
    /// The file has none.
    pub fn output(&self) -> Result<&OutputTable, RunFileError> {
        let remedy = "add it with uri = \"out/<name>\"";
        self.output.as_ref().ok_or_else(|| self.absent("[output]", remedy))
    }

    /// `[train]`.
    ///
    /// # Errors
    /// The file has none.
    pub fn train(&self) -> Result<&Recipe, RunFileError> {
        let remedy = "add it with hidden = [64, 32] and epochs = 100";
        self.train.as_ref().ok_or_else(|| self.absent("[train]", remedy))
    }

    fn absent(&self, key: &str, remedy: &str) -> RunFileError {
        RunFileError::Missing {
            at: self.at.clone(),
            key: key.to_owned(),
            remedy: remedy.to_owned(),
        }
    }
}

/// The tables of the root, each checked for unknown keys as it is taken.
struct Tables<'r, 'd> {
    root: &'r Table<'d>,
}

impl<'d> Tables<'_, 'd> {
    fn optional(&self, name: &str, known: &[&str]) -> Result<Option<Table<'d>>, RunFileError> {
        let table = self.root.table(name)?;
        if let Some(table) = &table {
            table.only(known, TABLES)?;
        }
        Ok(table)
    }

    fn required(&self, name: &str, known: &[&str]) -> Result<Table<'d>, RunFileError> {
        self.optional(name, known)?
            .ok_or_else(|| self.root.missing(name, format!("add the table [{name}]")))
    }
}

/// Refuses a file of another version before anything else is said about it.
fn check_version(root: &Table<'_>) -> Result<(), RunFileError> {
    let entry = root
        .get("version")
        .ok_or_else(|| root.missing("version", "write version = 1 at the top of the file"))?;
    match entry.integer(1)? {
        VERSION => Ok(()),
        other => Err(entry.unsupported(format!("version {other}"), "it reads version = 1")),
    }
}

/// `[prior]`; what of it looks at held-out residuals needs some.
fn read_prior(table: &Table<'_>, noise: &NoiseTable, catalogue: &CatalogueSource) -> Result<PriorTable, RunFileError> {
    let prior = PriorTable::read(table)?;
    let Some(entry) = prior.needs_holdout().and_then(|key| table.get(key)) else {
        return Ok(prior);
    };
    if noise.holdout_fraction == 0.0 {
        return Err(
            entry.invalid("looks at held-out spectra, and noise.holdout_fraction is 0: give it a share above 0")
        );
    }
    if catalogue.columns.labels.is_empty() {
        return Err(
            entry.invalid("looks at the residuals of held-out spectra: name the columns of labels in [catalogue]")
        );
    }
    Ok(prior)
}

/// `[certificate]`; the true Hessian needs labels.
fn read_certificate(table: &Table<'_>, catalogue: &CatalogueSource) -> Result<Certification, RunFileError> {
    let certificate = certificate::read(table)?;
    match table.get("hessian_steps") {
        Some(entry) if certificate.hessian_steps > 0 && catalogue.columns.labels.is_empty() => Err(entry.invalid(
            "looks at the true Hessian, which is made of the residuals of the labels: name the columns of labels in [catalogue], or leave it out",
        )),
        _ => Ok(certificate),
    }
}

/// `[catalogue]`, and its keys as `[predict]` inherits them.
fn read_catalogue(
    tables: &Tables<'_, '_>,
    network: &NetworkSource,
) -> Result<(CatalogueSource, CatalogueKeys), RunFileError> {
    let table = tables.required("catalogue", catalogue::KEYS)?;
    let keys = CatalogueKeys::read(&table)?;
    if let (Some(columns), Some(labels), Some(k)) = (&keys.labels, table.get("labels"), network::n_labels(network))
        && columns.len() != k
    {
        return Err(labels.invalid(format!(
            "names {} columns, [network.labels] has {k}: one a label, in the network's order",
            columns.len()
        )));
    }
    let names = network.said.labels.as_ref().and_then(|labels| labels.names.as_ref());
    if let (Some(columns), Some(entry), Some(names)) = (&keys.labels, table.get("labels"), names)
        && columns != names
        && columns.iter().all(|column| names.contains(column))
    {
        return Err(entry.invalid(format!(
            "names the columns in the order {columns:?}, and [network.labels] the network's outputs in the order {names:?}: each would be \
             taken for another label; name both in the outputs' order"
        )));
    }
    let catalogue = keys.clone().complete(&table, Vec::new())?;
    catalogue::refuse_named_twice(&catalogue.columns, &table)?;
    Ok((catalogue, keys))
}
