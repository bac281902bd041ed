//! A complete output opened again without its run file: the posterior of its blocks, and its curvature in other programs' conventions.
//!
//! Which blocks there are, and with what prior and certificate, stands in the manifest; their matrices in `posterior/`.

use std::collections::BTreeMap;

use fisherflow_curvature::{BlockOptions, BlockPlan, CurvatureError, CurvatureKind};
use fisherflow_network::{DenseShape, nearest_name};
use fisherflow_posterior::{
    BlockInfo, Convention, DualLayout, NamedTensor, Peer, PosteriorPart, Precision, Reduction, dual_from_tiles,
    hessian_from_matrices, precision_from_matrices,
};
use fisherflow_store::{FileMetadata, MatrixSet, Output, Stores, WrittenFile};
use serde::Deserialize;

use crate::dual_files;
use crate::error::RunError;
use crate::files::{block_name, named_matrices};

/// A complete output.
pub struct Finished {
    output: Output,
    run_id: String,
    /// Of the curvature, by name.
    kind: String,
    n_labels: usize,
    layers: Vec<DenseShape>,
    blocks: Vec<(BlockPlan, BlockInfo)>,
    /// Of the output, as its manifest lists them.
    files: Vec<WrittenFile>,
}

/// A layer's posterior, or that of a whole block of layers.
pub struct FinishedLayer {
    /// What can be asked of it.
    pub posterior: PosteriorPart,
    /// Key-value metadata of the file that it was read from: the run, and the conventions that its numbers follow.
    pub metadata: FileMetadata,
}

/// The blocks of an output in another program's convention.
pub struct Exported {
    /// Layer after layer.
    pub tensors: Vec<NamedTensor>,
    /// What was exported: convention, loss, factors, prior, run.
    pub facts: BTreeMap<String, String>,
}

/// What the manifest's settings say of the network and the blocks.
#[derive(Deserialize)]
struct Settings {
    network: NetworkSettings,
    curvature: CurvatureSettings,
    blocks: Vec<BlockInfo>,
}

#[derive(Deserialize)]
struct CurvatureSettings {
    kind: String,
    #[serde(flatten)]
    options: BlockOptions,
}

#[derive(Deserialize)]
struct NetworkSettings {
    labels: Vec<String>,
    layers: Vec<DenseShape>,
}

impl Finished {
    /// Opens the output at a URI; reads its manifest alone.
    ///
    /// # Errors
    /// There is no complete output, or its manifest is of another version, or does not say what its blocks are.
    pub fn open(stores: &Stores, uri: &str) -> Result<Self, RunError> {
        let output = Output::open(stores, uri)?;
        let manifest = output.complete()?;
        manifest.check_version(output.uri())?;
        let unlike = |reason: String| {
            RunError::Refused(format!(
                "{}/manifest.json does not say what the blocks of the Hessian are ({reason}): it is from another version of fisherflow, run it \
                 again",
                output.uri()
            ))
        };
        let settings: Settings =
            serde_json::from_value(manifest.settings).map_err(|error| unlike(error.to_string()))?;
        let layers = settings.network.layers;
        let mut blocks = Vec::with_capacity(settings.blocks.len());
        for info in settings.blocks {
            let place = |name: &String| layers.iter().position(|shape| shape.name == *name);
            let places: Option<Vec<usize>> = info.layers.iter().map(place).collect();
            let places = places.ok_or_else(|| unlike(format!("no layers {}", info.layers.join(", "))))?;
            let plan = BlockPlan {
                id: info.block,
                structure: info.structure,
                shapes: places.iter().map(|&layer| layers[layer].clone()).collect(),
                layers: places,
                options: settings.curvature.options,
            };
            blocks.push((plan, info));
        }
        Ok(Self {
            output,
            run_id: manifest.run_id,
            kind: settings.curvature.kind,
            n_labels: settings.network.labels.len(),
            layers,
            blocks,
            files: manifest.files,
        })
    }

    /// Names and sizes of the layer, or of those of the block, that [`Finished::layer`] opens: nothing is read for them.
    ///
    /// # Errors
    /// There is no such layer (the nearest is named).
    pub fn shapes(&self, name: &str) -> Result<Vec<DenseShape>, RunError> {
        let (_, _, _, shapes) = self.find(name)?;
        Ok(shapes)
    }

    /// The posterior of a layer, or of the block whose layers' names are joined by `+`. Its products may use `threads`.
    ///
    /// # Errors
    /// There is no such layer (the nearest is named), or its matrices cannot be read.
    pub fn layer(&self, name: &str, threads: usize) -> Result<FinishedLayer, RunError> {
        let (plan, info, start, shapes) = self.find(name)?;
        let (precision, metadata) = self.precision(plan, info, threads)?;
        Ok(FinishedLayer {
            posterior: PosteriorPart::new(precision, start, shapes)?,
            metadata,
        })
    }

    /// A block's posterior, and the metadata of a file of it.
    fn precision(
        &self,
        plan: &BlockPlan,
        info: &BlockInfo,
        threads: usize,
    ) -> Result<(Box<dyn Precision>, FileMetadata), RunError> {
        self.check_whole(MatrixSet::Inverse, plan)?;
        if plan.structure.has_sums() {
            let stored = self.output.read_matrices(MatrixSet::Inverse, &block_name(plan))?;
            let metadata = stored.metadata.clone();
            let precision = precision_from_matrices(plan, named_matrices(stored)?, info.clone(), threads)?;
            return Ok((precision, metadata));
        }
        let chunks = dual_files::chunks_of(plan, self.n_labels, &self.files);
        let layout = DualLayout {
            plan: plan.clone(),
            n_labels: self.n_labels,
            chunks: chunks.iter().map(|chunk| chunk.n_spectra).collect(),
        };
        if layout.n_spectra() as u64 != info.n_spectra {
            return Err(RunError::Refused(format!(
                "{} lists rows of {} spectra for block {}, which has {}: run it again",
                self.output.uri(),
                layout.n_spectra(),
                plan.name(),
                info.n_spectra
            )));
        }
        let mut rows = Vec::with_capacity(chunks.len());
        let mut factor = Vec::with_capacity(chunks.len());
        for (at, chunk) in chunks.iter().enumerate() {
            rows.push(dual_files::read_rows(&self.output, plan, self.n_labels, *chunk)?);
            factor.push(dual_files::read_factor(&self.output, &layout, at)?);
        }
        let first = self
            .output
            .read_matrices(MatrixSet::Inverse, &dual_files::factor_name(plan, 0))?;
        let precision = dual_from_tiles(layout, info.clone(), rows, factor, threads);
        Ok((precision, first.metadata))
    }

    /// All blocks in the convention of another program.
    ///
    /// # Errors
    /// The curvature is the empirical Fisher, the program is never run with that reduction, has no form for a block's structure, or a block's matrices cannot be read.
    pub fn export(&self, peer: Peer, reduction: Reduction, threads: usize) -> Result<Exported, RunError> {
        if self.kind == CurvatureKind::EmpiricalFisher.name() {
            return Err(RunError::Usage(format!(
                "the curvature of {} is the empirical Fisher, whose gradients other programs scale otherwise than a Hessian (by the square of the \
                 loss's factor, and not by it): only those of kind ggn and hessian are exported",
                self.output.uri()
            )));
        }
        let n_spectra = self.blocks.iter().map(|(_, info)| info.n_spectra).max().unwrap_or(0);
        let convention = Convention::new(peer, reduction, n_spectra, self.n_labels).map_err(RunError::Usage)?;
        let mut facts = BTreeMap::from(
            [
                ("fisherflow.version", env!("CARGO_PKG_VERSION").to_owned()),
                ("fisherflow.run_id", self.run_id.clone()),
                ("curvature", self.kind.clone()),
                ("peer", peer.to_string()),
                ("reduction", reduction.to_string()),
                ("loss", convention.loss().to_owned()),
                ("n_spectra", n_spectra.to_string()),
                ("n_labels", self.n_labels.to_string()),
                ("factor_on_hessian", format!("{:e}", convention.of_hessian())),
                (
                    "factor_on_s_a",
                    format!("{:e}", convention.of_factors(n_spectra as f64).0),
                ),
                (
                    "factor_on_s_g",
                    format!("{:e}", convention.of_factors(n_spectra as f64).1),
                ),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let mut tensors = Vec::new();
        for (plan, info) in &self.blocks {
            facts.insert(format!("structure.{}", plan.name()), plan.structure.to_string());
            if plan.terms_a_spectrum() > 1 {
                let terms = info.n_spectra * plan.terms_a_spectrum();
                let (of_a, of_g) = convention.of_factors(terms as f64);
                facts.insert(format!("factor_on_s_a.{}", plan.name()), format!("{of_a:e}"));
                facts.insert(format!("factor_on_s_g.{}", plan.name()), format!("{of_g:e}"));
            }
            facts.insert(
                format!("prior_precision.{}", plan.name()),
                format!("{:e}", info.prior_precision),
            );
            facts.insert(
                format!("damping.{}", plan.name()),
                format!("{:e}", convention.damping(info.prior_precision)),
            );
            tensors.extend(if peer.wants_inverse() {
                let (precision, _) = self.precision(plan, info, threads)?;
                convention.inverse(plan, &*precision)?
            } else if plan.structure.has_sums() {
                self.check_whole(MatrixSet::Hessian, plan)?;
                let stored = self.output.read_matrices(MatrixSet::Hessian, &block_name(plan))?;
                convention.curvature(
                    plan,
                    &hessian_from_matrices(plan, info.n_spectra, named_matrices(stored)?)?,
                )?
            } else {
                return Err(convention.without_sums(plan).into());
            });
        }
        Ok(Exported { tensors, facts })
    }

    /// Refuses the files of a block that are not as the manifest says: a number made of them would be wrong, and nothing would show it.
    fn check_whole(&self, set: MatrixSet, plan: &BlockPlan) -> Result<(), RunError> {
        let start = format!("{}/{}", set.directory(), block_name(plan));
        // `block-001.parquet`, and of a dual block `block-001-rows-...`.
        let is_of_block = |path: &str| {
            let rest = path.strip_prefix(&start);
            rest.is_some_and(|rest| rest.starts_with('.') || rest.starts_with('-'))
        };
        let files: Vec<WrittenFile> = self
            .files
            .iter()
            .filter(|file| is_of_block(&file.path))
            .cloned()
            .collect();
        let problem = match self.output.damages(&files)?.first() {
            Some(damage) => damage.to_string(),
            None if files.is_empty() => format!("manifest.json lists no file of block {} there", plan.name()),
            None => return Ok(()),
        };
        Err(RunError::Refused(format!(
            "{}: {problem}: the output is not as its manifest says (`fisherflow verify` tells all of it); run it again with --overwrite",
            self.output.uri()
        )))
    }

    /// The block of a layer or of that name, where in it the weights begin, and the layers meant.
    fn find(&self, name: &str) -> Result<(&BlockPlan, &BlockInfo, usize, Vec<DenseShape>), RunError> {
        for (plan, info) in &self.blocks {
            if plan.name() == name {
                return Ok((plan, info, 0, plan.shapes.clone()));
            }
            let mut start = 0;
            for shape in &plan.shapes {
                if shape.name == name {
                    return Ok((plan, info, start, vec![shape.clone()]));
                }
                start += shape.n_weights();
            }
        }
        let nearest = nearest_name(name, self.layers.iter().map(|shape| shape.name.as_str()));
        let unknown = CurvatureError::UnknownLayer {
            name: name.to_owned(),
            nearest,
        };
        Err(RunError::Usage(unknown.to_string()))
    }
}
