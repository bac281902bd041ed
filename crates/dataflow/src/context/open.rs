//! Opens a run: network, catalogues, blocks and prior, and whether they fit one another.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::Device;
use fisherflow_curvature::{BlockPlan, CurvatureError, CurvatureKind, StructureKind, plan_blocks};
use fisherflow_network::{Arithmetic, Network, Precision as ProductPrecision, Processor};
use fisherflow_posterior::LabelCells;
use fisherflow_spectra::{CatalogueColumns, plan_groups, sample_groups};
use fisherflow_store::{
    Catalogue, GroupStore, JacobianSchema, KnownCatalogue, Output, PredictionSchema, StoreError, Stores, hex,
    with_causes,
};
use sha2::{Digest, Sha256};

use super::{Context, GroupedCatalogue, IO_THREADS, MANY_CELLS, PLENTY};
use crate::arithmetic_check::exact_enough;
use crate::basis::Pinned;
use crate::checkpoint;
use crate::checkpoint::Checkpoint;
use crate::error::RunError;
use crate::fail_point::FailPoint;
use crate::fault::Faults;
use crate::job::{CatalogueSource, Compute, Job, Prior, StructureChoice};
use crate::operators::Readers;
use crate::plan::auto;
use crate::plan::auto::ChosenStructure;
use crate::plan::memory::Sizes;
use crate::progress::meter::Meter;
use crate::run::inputs;
use crate::run::prior_choice;
use crate::run::prior_choice::PriorChoice;
use crate::run::release::Release;

impl Context {
    /// Reads the network and the catalogues' footers, and checks that they fit one another, for so many processes of so many workers each; writes
    /// nothing.
    pub(crate) fn open(
        job: Arc<Job>,
        (processes, workers): (usize, usize),
        progress: Arc<Meter>,
    ) -> Result<Self, RunError> {
        let asked = job.compute.arithmetic.precision;
        kernel_of(asked)?;
        let stores = Stores::new(job.store.clone(), IO_THREADS)?;
        refuse_output_in_catalogue(&stores, &job)?;
        let bytes = stores.read(&job.network.uri)?;
        let network = Network::from_safetensors(&bytes, &job.network.said, job.compute.arithmetic);
        let network = network.map_err(|source| RunError::NetworkFile {
            uri: job.network.uri.clone(),
            source,
        })?;
        let release = job.releases.then(|| Release::next(&stores, &job.output)).transpose()?;
        let known = release.as_ref().and_then(|release| release.parent.as_ref());
        let known = known.map(KnownCatalogue::of);
        let catalogue = opened(&stores, "catalogue", &job.catalogue, &network, known.as_ref())?;
        let (job, network, kernel) = settle_precision(job, network, &bytes, &catalogue, workers)?;
        let (blocks, chosen) = plan_of(&job, &network, &catalogue)?;
        check_curvature(&job, &blocks)?;
        let checkpoint = Checkpoint::of(network.dense_layers(), network.n_labels(), &blocks)?;
        let group = job.compute.group.unwrap_or_else(|| checkpoint.spectra_a_group());
        catalogue.keep(job.compute.kept_spectra);
        let cells = label_cells(&job, &network)?;
        let fit = GroupedCatalogue::new(catalogue, group, &job.compute, &cells);
        let predict = match &job.predict.catalogue {
            None => None,
            Some(source) => {
                // Its groups leave rows alone.
                let group = job.compute.group.unwrap_or(checkpoint::LEAST);
                let catalogue = opened(&stores, "predict", source, &network, None)?;
                Some(GroupedCatalogue::new(catalogue, group, &job.compute, &cells))
            }
        };
        // Names that clash are told now, not once the posterior is there.
        let predicted = &predict.as_ref().unwrap_or(&fit).catalogue;
        let (rows, labels) = (predicted.row_schema(), &network.labels().names);
        PredictionSchema::new(rows, labels)?;
        if job.predict.jacobians {
            JacobianSchema::new(rows, labels, network.n_inputs())?;
        }
        let given_priors = prior_choice::given(&job, &network, &blocks)?;
        check_dual_prior(&blocks, &given_priors)?;
        let prior = PriorChoice::as_given(&given_priors).map_or_else(OnceLock::new, OnceLock::from);
        let network_sha256 = hex(&Sha256::digest(&bytes));
        let uri = release.as_ref().map_or_else(|| job.output.clone(), Release::uri);
        let output = Output::open(&stores, &uri)?;
        let faults = Arc::new(Faults::of_run(release.is_some()));
        let passing = |groups: GroupStore| {
            let faults = Arc::clone(&faults);
            groups.calling(move || faults.pass(FailPoint::GroupWritten))
        };
        let groups_of_run = passing(output.groups());
        let groups = release
            .as_ref()
            .map_or_else(|| groups_of_run.clone(), |release| passing(release.line.groups()));
        let mut context = Self {
            processes: processes.max(1),
            workers: workers.max(1),
            cores: workers * job.compute.arithmetic.threads,
            run_id: String::new(),
            kernel,
            asked,
            job,
            network,
            differentiating: OnceLock::new(),
            network_sha256,
            network_bytes: bytes.len() as u64,
            stores,
            blocks,
            chosen,
            fit,
            predict,
            groups,
            groups_of_run,
            group,
            checkpoint,
            output,
            left_files: Arc::default(),
            release,
            basis: None,
            excluded: OnceLock::new(),
            holding: OnceLock::new(),
            faults,
            progress,
            failed: AtomicBool::new(false),
            posterior: Mutex::default(),
            bases: Mutex::default(),
            dual_rows_made: AtomicUsize::new(0),
            dual_rows: OnceLock::new(),
            dual_storage: Mutex::default(),
            given_priors,
            cells,
            evidence: OnceLock::new(),
            prior,
            choosing: Mutex::default(),
            scans: Mutex::default(),
            label_scale: OnceLock::new(),
            input_range: OnceLock::new(),
        };
        inputs::check_apart(&context)?;
        let found_by = context.identity();
        context.basis = Pinned::find(&context, &found_by)?;
        context.run_id = context.identity();
        context.progress.reads_from(context.stores.traffic(), &context.run_id);
        Ok(context)
    }

    /// Refuses to write files into the folder of `--out`, by path in it, where a catalogue would read them, or take the folder for an object.
    pub(crate) fn check_out(&self, out: &Output, files: &[&str]) -> Result<(), RunError> {
        refuse_in_catalogue(&self.stores, &self.job, ("--out", out.uri()), |uri| {
            for file in files {
                if self.stores.reads(uri, &out.child(file))? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }
}

/// What products of this precision are made by here.
fn kernel_of(precision: ProductPrecision) -> Result<String, RunError> {
    let kernel = precision.kernel();
    kernel.map_err(|error| RunError::Refused(with_causes(&error)))
}

/// The job with the precision that is exact enough for the catalogue's first spectra, the network (of these bytes) in it, and what its products
/// are made by.
fn settle_precision(
    job: Arc<Job>,
    network: Network,
    bytes: &[u8],
    catalogue: &Catalogue,
    workers: usize,
) -> Result<(Arc<Job>, Network, String), RunError> {
    let asked = job.compute.arithmetic;
    let all_threads = Arithmetic {
        threads: workers.max(1) * asked.threads,
        ..asked
    };
    let in_arithmetic = |arithmetic| Network::from_safetensors(bytes, &job.network.said, arithmetic);
    let precision = exact_enough(all_threads, catalogue, in_arithmetic)?;
    let (job, network) = if precision == asked.precision {
        (job, network)
    } else {
        let slower = Arithmetic { precision, ..asked };
        let network = in_arithmetic(slower)?;
        let mut job = (*job).clone();
        job.compute.arithmetic = slower;
        (Arc::new(job), network)
    };
    let network = network.with_packed_weights();
    let mut kernel = kernel_of(precision)?;
    if job.compute.processor != Processor::Cpu {
        kernel = format!("{kernel} on {}", job.compute.processor);
        // Whether it could be there.
        let moved = network.on(&Device::Cpu);
        moved.map_err(|error| RunError::Usage(format!("compute.device: {error}")))?;
    }
    Ok((job, network, kernel))
}

impl GroupedCatalogue {
    /// With groups of about `group` spectra, and a sample that serves so many cells.
    fn new(catalogue: Catalogue, group: u64, compute: &Compute, cells: &LabelCells) -> Self {
        let groups = plan_groups(catalogue.shards().iter().cloned(), group, catalogue.folder());
        let plenty = PLENTY * cells.n_cells().min(MANY_CELLS) as f64 / compute.sampled_fraction();
        let sample = sample_groups(&groups, plenty.ceil() as u64, catalogue.folder());
        Self {
            catalogue,
            groups,
            sample,
            plenty,
            readers: Readers::default(),
        }
    }
}

/// Refuses a catalogue that would read what the run writes, or take its folder for an object, and every later run with it.
fn refuse_output_in_catalogue(stores: &Stores, job: &Job) -> Result<(), RunError> {
    refuse_in_catalogue(stores, job, ("output.uri", &job.output), |uri| {
        stores.reads_output(uri, &job.output)
    })
}

/// Refuses a catalogue that `reads`, by its URI, what is to be written to a place, or would have that, for its name, for an object that cannot be read:
/// refused by every later run, or named by it among what it leaves out. `key` names the place.
fn refuse_in_catalogue(
    stores: &Stores,
    job: &Job,
    (key, place): (&str, &str),
    reads: impl Fn(&str) -> Result<bool, StoreError>,
) -> Result<(), RunError> {
    let predict = job.predict.catalogue.as_ref().map(|source| ("predict", source));
    for (table, source) in [("catalogue", &job.catalogue)].into_iter().chain(predict) {
        if reads(&source.uri)? {
            return Err(RunError::Usage(format!(
                "{table}.uri {} reads the files of {key} {place} as spectra, too: name an output outside of it, or a narrower {table}.uri",
                source.uri
            )));
        }
        if let Some(folder) = stores.takes_for_object(&source.uri, place)? {
            return Err(RunError::Usage(format!(
                "{key}: {folder} has the name of an object of {table}.uri {} and would be taken for one: name it without .parquet",
                source.uri
            )));
        }
    }
    Ok(())
}

/// A catalogue that fits the network; `table` of the run file names it.
fn opened(
    stores: &Stores,
    table: &str,
    source: &CatalogueSource,
    network: &Network,
    known: Option<&KnownCatalogue<'_>>,
) -> Result<Catalogue, RunError> {
    let (uri, columns) = (&source.uri, &source.columns);
    let n_pixels = Some(network.n_inputs());
    let catalogue = Catalogue::open_knowing(stores, uri, columns, source.on_bad_object, n_pixels, known)
        .map_err(|error| with_key(error, table, columns))?;
    let catalogue = catalogue.excluding(&source.exclude)?;
    if catalogue.n_rows() == 0 {
        return Err(RunError::Refused(format!("{} holds no spectra", source.uri)));
    }
    let labels = source.columns.labels.len();
    if labels != 0 && labels != network.n_labels() {
        return Err(RunError::Usage(format!(
            "{} has {labels} label columns named, and the network gives {} labels ({}): name one column a label, in that order",
            source.uri,
            network.n_labels(),
            network.labels().names.join(", ")
        )));
    }
    if let Some(why) = in_another_order(&source.columns.labels, &network.labels().names) {
        return Err(RunError::Usage(format!("{table}.labels of {}: {why}", source.uri)));
    }
    Ok(catalogue)
}

/// With the key that names a column which is missing: that of `[predict]` may be one that the user never wrote there.
fn with_key(error: StoreError, table: &str, columns: &CatalogueColumns) -> RunError {
    let StoreError::MissingColumn { column, .. } = &error else {
        return error.into();
    };
    let Some(key) = columns.key_of(column) else {
        return error.into();
    };
    let taken_over = match (table, key) {
        ("predict", "mask") => ", that of [catalogue] where it is not said; `mask = false` says that there is none",
        ("predict", "id" | "flux" | "sigma" | "ivar") => ", that of [catalogue] where it is not said",
        _ => "",
    };
    RunError::Refused(format!("{error} ({table}.{key}{taken_over})"))
}

/// What to say of label columns that have the names of the network's outputs, in another order: each would be compared with another label.
/// Default names say nothing.
fn in_another_order(columns: &[String], names: &[String]) -> Option<String> {
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort_unstable();
        names
    };
    let are_default = names.iter().enumerate().all(|(k, name)| *name == format!("label_{k}"));
    let is_other = !are_default && columns != names && sorted(columns) == sorted(names);
    is_other.then(|| {
        format!(
            "the columns are named as {columns:?}, and the network gives these labels in the order {names:?}: name the columns in the \
             network's order (or put the network's names right, where those are wrong)"
        )
    })
}

/// The blocks of the Hessian, and what `auto` chose for which layer.
fn plan_of(
    job: &Job,
    network: &Network,
    catalogue: &Catalogue,
) -> Result<(Vec<BlockPlan>, Vec<ChosenStructure>), RunError> {
    let curvature = &job.curvature;
    let planned = |structure, by_layer| {
        plan_blocks(network.dense_layers(), structure, by_layer, curvature.options).map_err(|error| {
            let key = match error {
                CurvatureError::SplitBiasOfFull { .. } => "curvature.split_bias",
                _ => "[curvature.layers]",
            };
            RunError::Usage(format!("{key}: {error}"))
        })
    };
    match curvature.structure {
        StructureChoice::Given(structure) => Ok((planned(structure, &curvature.by_layer)?, Vec::new())),
        StructureChoice::Auto { memory } => {
            // Checks the names of layers before anything is chosen beside them.
            planned(StructureKind::Diagonal, &curvature.by_layer)?;
            let choice = auto::choose(&Sizes::of(job, network, catalogue, (1, 1)), memory)?;
            Ok((planned(StructureKind::Diagonal, &choice.by_layer)?, choice.chosen))
        }
    }
}

/// Refuses a kind of curvature that the structures, the prior or the catalogue cannot have, and a prior that a structure cannot have.
fn check_curvature(job: &Job, blocks: &[BlockPlan]) -> Result<(), RunError> {
    let kind = job.curvature.kind;
    let refused = |why: String| Err(RunError::Usage(format!("curvature.kind = \"{}\": {why}", kind.name())));
    if kind.needs_labels() && job.catalogue.columns.labels.is_empty() {
        return refused(format!(
            "it is made of the residuals of the labels, and {} names none: name its columns in catalogue.labels, or choose \"ggn\"",
            job.catalogue.uri
        ));
    }
    let dual = blocks.iter().any(|block| block.structure == StructureKind::Dual);
    if dual && kind != CurvatureKind::Ggn {
        return refused(
            "\"dual\" holds the Gauss-Newton curvature alone: choose \"ggn\", or another structure".to_owned(),
        );
    }
    let low_rank = blocks.iter().find(|block| block.structure == StructureKind::LowRank);
    let is_found = !matches!(job.prior, Prior::Fixed(_));
    if let Some(block) = low_rank.filter(|_| is_found) {
        return Err(RunError::Usage(format!(
            "layer {} is held as \"low_rank\", whose eigenvalues are not all known, and prior.precision needs them to be found: give it a \
             number (one in [prior.layers] is not enough), or hold the layer by another structure",
            block.name()
        )));
    }
    if kind != CurvatureKind::Hessian {
        return Ok(());
    }
    let dense = [StructureKind::Full, StructureKind::Block];
    if let Some(block) = blocks.iter().find(|block| !dense.contains(&block.structure)) {
        return refused(format!(
            "layer {} is held as \"{}\", and the true Hessian has no form but the dense one: hold every layer as \"full\" or \"block\", or \
             choose \"ggn\"",
            block.name(),
            block.structure
        ));
    }
    if is_found {
        return refused("its eigenvalues may be negative, and no evidence can choose the prior precision: give prior.precision a number, or \
                        choose \"ggn\"".to_owned());
    }
    Ok(())
}

/// Refuses a dual block without a prior, whose Gram matrix says nothing of most of its weights.
fn check_dual_prior(blocks: &[BlockPlan], given: &[Option<f64>]) -> Result<(), RunError> {
    let mut blocks = blocks.iter().zip(given);
    match blocks.find(|(block, given)| block.structure == StructureKind::Dual && **given == Some(0.0)) {
        None => Ok(()),
        Some((block, _)) => Err(RunError::Usage(format!(
            "layer {} is held as \"dual\", which needs a prior precision above 0, and the run file gives it 0: raise it, in prior.precision or \
             [prior.layers], or hold the layer by another structure",
            block.name()
        ))),
    }
}

/// The cells that the run file cuts label space into.
fn label_cells(job: &Job, network: &Network) -> Result<LabelCells, RunError> {
    let names = &network.labels().names;
    let axes = job.calibration.intrinsic_bins.iter().map(|(name, edges)| {
        let label = names.iter().position(|label| label == name).ok_or_else(|| {
            RunError::Usage(format!(
                "[noise.intrinsic_bins]: the network has no label `{name}`, it has {}",
                names.join(", ")
            ))
        })?;
        Ok((label, edges.clone()))
    });
    let axes = axes.collect::<Result<Vec<_>, RunError>>()?;
    LabelCells::new(axes).map_err(|error| RunError::Usage(format!("[noise.intrinsic_bins]: {error}")))
}

#[cfg(test)]
mod tests {
    use fisherflow_spectra::{CatalogueColumns, Mask};
    use fisherflow_store::StoreError;

    use super::{in_another_order, with_key};

    #[test]
    fn a_missing_column_is_told_with_the_key_that_names_it() {
        let columns = CatalogueColumns {
            mask: Some(Mask {
                column: "bits".into(),
                bad_bits: Vec::new(),
            }),
            labels: vec!["teff".into()],
            ..CatalogueColumns::new("id", "flux")
        };
        let said = |table: &str, column: &str| {
            let missing = StoreError::MissingColumn {
                object: "/a".to_owned(),
                column: column.to_owned(),
                nearest: None,
            };
            let error = with_key(missing, table, &columns);
            assert_eq!(error.exit_code(), 3);
            error.to_string()
        };
        assert_eq!(
            said("predict", "bits"),
            "/a has no column \"bits\" (predict.mask, that of [catalogue] where it is not said; `mask = false` says that there is none)"
        );
        assert_eq!(
            said("predict", "flux"),
            "/a has no column \"flux\" (predict.flux, that of [catalogue] where it is not said)"
        );
        assert_eq!(said("predict", "teff"), "/a has no column \"teff\" (predict.labels)");
        assert_eq!(said("catalogue", "bits"), "/a has no column \"bits\" (catalogue.mask)");
        assert_eq!(said("predict", "snr"), "/a has no column \"snr\"", "one that is kept");
    }

    #[test]
    fn labels_in_another_order_are_told_by_their_names() {
        let of = |columns: &[&str], names: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
            in_another_order(&owned(columns), &owned(names))
        };
        let said = of(&["j_h", "spt"], &["spt", "j_h"]).unwrap();
        assert!(
            said.contains(r#"["j_h", "spt"]"#) && said.contains(r#"["spt", "j_h"]"#),
            "{said}"
        );
        assert_eq!(of(&["spt", "j_h"], &["spt", "j_h"]), None);
        assert_eq!(of(&["true_j_h", "true_spt"], &["spt", "j_h"]), None, "other names");
        assert_eq!(of(&["j_h", "teff"], &["spt", "j_h"]), None, "one of them is another");
        assert_eq!(of(&["label_1", "label_0"], &["label_0", "label_1"]), None, "defaults");
        assert_eq!(of(&[], &["spt"]), None, "no labels");
    }
}
