//! What one worker of a process loads, finds or chooses for all of them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::DType;
use fisherflow_curvature::{BlockPlan, StructureKind, WeightJacobian};
use fisherflow_posterior::{
    BlockInfo, DualLayout, DualPrecision, Evidence, Precision, PriorScan, Spectrum, dual_prior_scan, factor,
};
use fisherflow_spectra::{Group, InputRange};

use super::{Bases, Context, Posterior};
use crate::dual_storage::{DualRows, DualStorage};
use crate::error::RunError;
use crate::files;
use crate::job::Prior;
use crate::run::prior_choice;
use crate::run::prior_choice::PriorChoice;
use crate::run::prior_facts::PriorPrecision;
use crate::run::stage_state::{FitState, InvertState};

impl Context {
    /// Loads the posterior of every block from the files that `invert` wrote; the first worker to ask reads them for all.
    pub(crate) fn load_posterior(&self, inverted: &InvertState) -> Result<(), RunError> {
        self.one_at_a_time(&self.posterior, |posterior| {
            if posterior.is_none() {
                let blocks = self.blocks.iter().zip(&inverted.blocks);
                let loaded: Result<Vec<_>, _> = blocks
                    .map(|(plan, info)| {
                        if plan.structure.has_sums() {
                            files::read_inverse(self, plan, info.clone())
                        } else {
                            self.dual_precision(info.clone())
                        }
                    })
                    .collect();
                *posterior = Some(Arc::new(loaded?));
            }
            Ok(())
        })
    }

    /// The block that is held as dual, if there is one.
    pub(crate) fn dual_plan(&self) -> Option<&BlockPlan> {
        self.blocks.iter().find(|plan| !plan.structure.has_sums())
    }

    /// Counts rows of the dual block that this process makes; how many it has made with them.
    pub(crate) fn count_dual_rows(&self, rows: usize) -> usize {
        self.dual_rows_made.fetch_add(rows, Ordering::Relaxed) + rows
    }

    /// Where the tiles of this run's factor go that memory has no room for.
    pub(crate) fn scratch(&self) -> String {
        let outside = self.scratch_outside(&self.run_id);
        outside.unwrap_or_else(|| self.output.child("stages/dual"))
    }

    /// Where those of a run go outside of its output; `None`: they are in it.
    pub(crate) fn scratch_outside(&self, run_id: &str) -> Option<String> {
        let folder = self.job.compute.scratch.as_ref()?;
        Some(format!("{}/fisherflow-{run_id}", folder.trim_end_matches('/')))
    }

    /// Where those of this run may go outside of it, as far as is known before its rows are: no more than the catalogue has.
    pub(crate) fn scratch_of_tiles(&self) -> Option<String> {
        let (plan, memory) = (self.dual_plan()?, self.job.compute.memory?);
        let n_spectra = self.fit.groups.iter().map(Group::n_rows).sum::<u64>();
        let n_labels = self.network.n_labels();
        let tiles = n_spectra
            .saturating_mul(n_labels as u64)
            .saturating_pow(2)
            .saturating_mul(8);
        let most = WeightJacobian::bytes(plan, n_labels, n_spectra).saturating_add(tiles);
        self.scratch_outside(&self.run_id).filter(|_| memory < most)
    }

    /// Takes over the dual block's rows that the fit left, if there is one.
    pub(crate) fn open_dual(&self, fit: &FitState) {
        if let Some(plan) = self.dual_plan() {
            let layout = DualLayout {
                plan: plan.clone(),
                n_labels: self.network.n_labels(),
                chunks: fit.dual.iter().map(|chunk| chunk.n_spectra).collect(),
            };
            self.dual_rows
                .get_or_init(|| Arc::new(DualRows::new(self, layout, &fit.dual)));
        }
    }

    /// The dual block's rows.
    pub(crate) fn dual_rows(&self) -> Result<&Arc<DualRows>, RunError> {
        self.dual_rows
            .get()
            .ok_or_else(|| RunError::Internal("a dual block was asked for before its rows".into()))
    }

    /// Where the dual block's factor is; the same for all workers of the process.
    pub(crate) fn dual_storage(&self, prior_precision: f64) -> Result<Arc<DualStorage>, RunError> {
        let mut storage = self.dual_storage.lock().unwrap_or_else(PoisonError::into_inner);
        match &*storage {
            Some(known) if known.prior_precision == prior_precision => Ok(Arc::clone(known)),
            _ => {
                let new = Arc::new(DualStorage::new(self, self.dual_rows()?, prior_precision));
                *storage = Some(Arc::clone(&new));
                Ok(new)
            }
        }
    }

    /// The dual block's posterior.
    fn dual_precision(&self, info: BlockInfo) -> Result<Box<dyn Precision>, RunError> {
        let storage = self.dual_storage(info.prior_precision)?;
        let layout = storage.rows.layout.clone();
        let threads = self.network.arithmetic().threads;
        Ok(Box::new(DualPrecision::new(layout, info, storage, threads)))
    }

    /// The posterior of every block, once loaded.
    pub(crate) fn posterior(&self) -> Result<Posterior, RunError> {
        let posterior = self.posterior.lock().unwrap_or_else(PoisonError::into_inner);
        posterior
            .clone()
            .ok_or_else(|| RunError::Internal("a prediction began before its posterior was loaded".into()))
    }

    /// The blocks whose eigenvalues are summed in a second pass over the spectra, by their position in the plan.
    pub(crate) fn corrected(&self) -> impl Iterator<Item = (usize, &BlockPlan)> {
        let blocks = self.blocks.iter().enumerate();
        blocks.filter(|(_, plan)| plan.structure == StructureKind::Ekfac)
    }

    /// The eigenbases that the curvature pass left; the first worker to ask reads them for all.
    pub(crate) fn load_bases(&self) -> Result<Bases, RunError> {
        self.one_at_a_time(&self.bases, |bases| {
            if let Some(loaded) = &*bases {
                return Ok(Arc::clone(loaded));
            }
            let read = |(block, plan)| Ok((block, Arc::new(files::read_bases(self, plan)?)));
            let loaded = Arc::new(self.corrected().map(read).collect::<Result<_, RunError>>()?);
            *bases = Some(Arc::clone(&loaded));
            Ok(loaded)
        })
    }

    /// Lets go of the eigenbases once no worker of the process sums in them any more.
    pub(crate) fn release_bases(&self) {
        *self.bases.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The evidence of one precision over the spectra of all blocks, in their order; the first worker to ask computes it for all of its
    /// process.
    pub(crate) fn evidence_of_all(&self, spectra: &[Spectrum]) -> Result<&Evidence, RunError> {
        self.once(&self.evidence, || {
            prior_choice::evidence_of_all(&self.network, &self.blocks, &self.given_priors, spectra)
        })
    }

    /// The prior by evidence, as the run file asks for it; likewise.
    pub(crate) fn choose_by_evidence(&self, spectra: &[Spectrum]) -> Result<&PriorChoice, RunError> {
        if self.job.prior == Prior::EvidencePerBlock {
            return self.once(&self.prior, || {
                PriorChoice::by_evidence_per_block(&self.network, &self.blocks, &self.given_priors, spectra)
            });
        }
        let evidence = self.evidence_of_all(spectra)?;
        self.once(&self.prior, || {
            Ok(PriorChoice::by_evidence(&self.given_priors, evidence.clone()))
        })
    }

    /// Keeps a prior that was chosen elsewhere.
    pub(crate) fn keep_prior(&self, prior: PriorChoice) -> Result<&PriorChoice, RunError> {
        self.once(&self.prior, || Ok(prior))
    }

    /// What a cell holds; the first worker to ask makes it for all of its process.
    pub(super) fn once<'c, T>(
        &self,
        cell: &'c OnceLock<T>,
        make: impl FnOnce() -> Result<T, RunError>,
    ) -> Result<&'c T, RunError> {
        if let Some(known) = cell.get() {
            return Ok(known);
        }
        self.one_at_a_time(&self.choosing, |_| {
            if let Some(known) = cell.get() {
                return Ok(known);
            }
            let made = make()?;
            Ok(cell.get_or_init(|| made))
        })
    }

    /// What a worker makes of what all of its process share, while the others wait. Once one has failed, those behind it stop: each would
    /// only fail likewise, after all of the store's patience, or after a hash of the same large files.
    fn one_at_a_time<T, U>(
        &self,
        shared: &Mutex<T>,
        make: impl FnOnce(&mut T) -> Result<U, RunError>,
    ) -> Result<U, RunError> {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if self.faults.raised() || self.failed.load(Ordering::Acquire) {
            return Err(RunError::Stopped);
        }
        let made = make(&mut shared);
        // Before the next one comes: a fault is raised only where its worker ends.
        self.failed.fetch_or(made.is_err(), Ordering::Release);
        made
    }

    /// Keeps a block in its eigenbasis for the workers of this process.
    pub(crate) fn keep_scan(&self, block: usize, scan: PriorScan) {
        let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        scans.insert(block, Arc::new(scan));
    }

    /// Every block in its eigenbasis, of a Hessian over `n_spectra` spectra; the first worker to ask factors for all of its process what
    /// other processes have.
    pub(crate) fn scans(&self, n_spectra: u64) -> Result<Vec<Arc<PriorScan>>, RunError> {
        self.one_at_a_time(&self.scans, |scans| {
            for (block, plan) in (0..).zip(&self.blocks) {
                if let std::collections::btree_map::Entry::Vacant(missing) = scans.entry(block) {
                    let threads = self.network.arithmetic().threads;
                    let scan = if plan.structure.has_sums() {
                        let factored = factor(plan, files::read_hessian(self, plan, n_spectra)?, self.cores)?;
                        factored.prior_scan(self.captures(), threads)?
                    } else {
                        let rows = self.dual_rows()?;
                        dual_prior_scan(&rows.layout, rows.all()?, self.cores, threads)?
                    };
                    missing.insert(Arc::new(scan));
                }
            }
            Ok(scans.values().cloned().collect())
        })
    }

    /// Lets the blocks in their eigenbases go.
    pub(crate) fn drop_scans(&self) {
        self.scans.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes over the prior that an `invert` before found.
    pub(crate) fn take_over_prior(&self, inverted: &InvertState) {
        self.prior.get_or_init(|| inverted.prior.clone());
    }

    /// The prior precision, once it is known.
    pub(crate) fn prior_precision(&self) -> Option<PriorPrecision> {
        let names = self.blocks.iter().map(BlockPlan::name);
        let choice = self.prior.get()?;
        Some(PriorPrecision::of_blocks(names, &choice.by_block))
    }

    /// The prior precision of every block and how it was found, once it is known.
    pub(crate) fn prior_choice(&self) -> Option<&PriorChoice> {
        self.prior.get()
    }

    /// What the network subtracts from inputs and divides them by, and how far they may be from 0.
    pub(crate) fn input_range(&self, limit: f64) -> InputRange {
        InputRange {
            mean: self.network.input_mean().to_vec(),
            scale: self.network.input_scale().to_vec(),
            limit,
        }
    }

    /// Takes over how far inputs may be from 0, the same for every worker: spectra beyond it are flagged from here on.
    pub(crate) fn set_input_limit(&self, limit: Option<f64>) {
        if let Some(limit) = limit {
            self.input_range
                .get_or_init(|| self.input_range(limit.min(self.overflow_limit())));
        }
    }

    /// What inputs may be whatever the others are: sums of their squares must be finite in the arithmetic of the captures.
    pub(crate) fn overflow_limit(&self) -> f64 {
        match self.captures() {
            DType::F64 => 1e150,
            _ => 1e18,
        }
    }

    /// Takes over the factors of the weights' part, the same for every worker.
    pub(crate) fn set_label_scale(&self, scale: &[f64]) {
        self.label_scale.get_or_init(|| scale.to_vec());
    }

    /// The factors of the weights' part, `[K]`, where they are asked for and once they are known.
    pub(crate) fn label_scale(&self) -> Option<&[f64]> {
        self.label_scale.get().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use fisherflow_network::to_safetensors;
    use fisherflow_spectra::Simulation;
    use fisherflow_store::{StoreOptions, Stores, WrittenFile, simulated_columns, write_simulated};

    use super::*;
    use crate::job::{CatalogueSource, Job, Noise};
    use crate::progress::meter::Meter;
    use crate::run::stage_state::Step;

    #[test]
    fn what_one_worker_cannot_load_no_other_reads_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        write_simulated(&stores, &path("catalogue"), &Simulation::new(20, 7), 30, 30).unwrap();
        let (weight, bias) = (vec![0.25; 60], [0.0; 3]);
        let layer = [
            ("layers.0.weight", &[3, 20_usize][..], &weight[..]),
            ("layers.0.bias", &[3][..], &bias[..]),
        ];
        let network = to_safetensors(layer, HashMap::new()).unwrap();
        std::fs::write(path("network.safetensors"), network).unwrap();
        let catalogue = CatalogueSource::new(path("catalogue"), simulated_columns());
        let mut job = Job::new(path("network.safetensors"), catalogue, Prior::Fixed(1.0), path("out"));
        job.network.said.layers = Some(vec!["dense".to_owned()]);
        job.curvature.structure = StructureKind::Kfac.into();
        let unit: Vec<Vec<f64>> = (0..3).map(|k| (0..3).map(|l| f64::from(k == l)).collect()).collect();
        job.noise = Noise::Covariance(unit);
        let context = Context::open(Arc::new(job), (1, 4), Meter::silent()).unwrap();

        // Not what was written.
        let file = WrittenFile {
            path: "posterior/inverse/block-000.parquet".to_owned(),
            rows: 1,
            bytes: 1000,
            sha256: "0".repeat(64),
        };
        let uri = context.output.child(&file.path);
        stores.write(&uri, vec![1; 1000]).unwrap();
        context.left_files.take_over(Step::Invert, std::slice::from_ref(&file));
        let inverted = InvertState {
            run_id: context.run_id.clone(),
            prior: context.prior_choice().unwrap().clone(),
            blocks: vec![BlockInfo {
                block: 0,
                layers: vec!["layers.0".to_owned()],
                structure: StructureKind::Kfac,
                n_weights: 63,
                n_spectra: 30,
                n_terms: 30,
                prior_precision: 1.0,
                log_det: 0.0,
                effective_parameters: 0.0,
                smallest_eigenvalue: None,
                largest_eigenvalue: None,
                condition: 1.0,
                clipped_eigenvalues: 0,
                most_negative_eigenvalue: 0.0,
                jitter: 0.0,
                low_rank: None,
            }],
            files: vec![file],
        };
        let read = || context.stores.traffic().counts().bytes_read;
        let before = read();
        let error = context.load_posterior(&inverted).unwrap_err();
        assert!(matches!(error, RunError::Damaged { .. }), "{error}");
        let once = read();
        assert!(once >= before + 1000, "{before} {once}");
        // Those who waited for it, whether its fault is raised by then or not.
        for _ in 1..4 {
            let error = context.load_posterior(&inverted).unwrap_err();
            assert!(matches!(error, RunError::Stopped), "{error}");
        }
        assert_eq!(read(), once);
    }
}
