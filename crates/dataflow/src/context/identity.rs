//! The name of a run: the hash of everything that decides the bits of its output. Of the build these are its version and the numbers that are raised where
//! files, rows or samples are others: what one build of a version left unfinished, another goes on with.

use fisherflow_store::hex;
use sha2::{Digest, Sha256};

use super::{Context, GroupedCatalogue, SAMPLE_VERSION};
use crate::bad_rows::ROWS_VERSION;
use crate::files::SCHEMA_VERSION;
use crate::job::Prior;

impl Context {
    /// What one run of several processes must agree on beside its name: no process may make another release, know another basis, or have another
    /// place for a dual block's tiles: how many dataflows factor them follows from that.
    pub(crate) fn agreement(&self) -> String {
        let release = self.release.as_ref().map_or(0, |release| release.number);
        let basis = self.basis.as_ref().map_or("", |basis| &basis.sha256);
        // No other block's passes depend on it.
        let tiles = self
            .dual_plan()
            .map(|_| (self.job.compute.memory, self.job.compute.scratch.is_some()));
        format!("{release} {basis} {tiles:?}")
    }

    pub(super) fn identity(&self) -> String {
        let job = &self.job;
        let mut hash = Sha256::new();
        let mut add = |what: &str, value: &str| {
            hash.update((value.len() as u64).to_le_bytes());
            hash.update(what);
            hash.update(value);
        };
        add("version", env!("CARGO_PKG_VERSION"));
        // What a build of other columns left is another run's.
        add("schema", SCHEMA_VERSION);
        add("rows", ROWS_VERSION);
        add("sample", SAMPLE_VERSION);
        add("network", &self.network_sha256);
        add("said", &format!("{:?}", job.network.said));
        // Rows and groups go by names below the folder.
        let folder = |of: &GroupedCatalogue| of.catalogue.folder().to_owned();
        add("fit folder", &folder(&self.fit));
        add("predict folder", &format!("{:?}", self.predict.as_ref().map(folder)));
        add("fit", &self.fit.catalogue.etags_sha256());
        let excluded = |of: &GroupedCatalogue| of.catalogue.excluded().map(|list| list.sha256().to_owned());
        add(
            "excluded",
            &format!("{:?} {:?}", excluded(&self.fit), self.predict.as_ref().map(excluded)),
        );
        add("fit columns", &format!("{:?}", job.catalogue.columns));
        add(
            "predict",
            &self
                .predict
                .as_ref()
                .map_or_else(String::new, |predict| predict.catalogue.etags_sha256()),
        );
        add(
            "predict columns",
            &format!("{:?}", job.predict.catalogue.as_ref().map(|source| &source.columns)),
        );
        add("jacobians", &job.predict.jacobians.to_string());
        for block in &self.blocks {
            add("block", &format!("{} {:?}", block.structure, block.layers));
        }
        let curvature = &job.curvature;
        add(
            "curvature",
            &format!("{:?} {:?} {:?}", curvature.options, curvature.kind, curvature.low_rank),
        );
        add("noise", &format!("{:?}", job.noise));
        match job.prior {
            Prior::Fixed(precision) => add("prior", &format!("{precision:?}")),
            Prior::Evidence => add("prior", "evidence"),
            Prior::EvidencePerBlock => add("prior", "evidence per block"),
            Prior::Holdout => add("prior", "holdout"),
        }
        add("prior by layer", &format!("{:?}", job.prior_by_layer));
        add("calibration", &format!("{:?}", job.calibration));
        add("precision", &self.kernel);
        add("batch", &job.compute.batch.to_string());
        add("group", &self.group.to_string());
        let certificate = job.certificate.settled(self.network.n_labels());
        add("certificate", &format!("{certificate:?}"));
        add("holdout", &format!("{:?}", job.compute.holdout_fraction));
        add("farthest input", &format!("{:?}", job.compute.farthest_input));
        let found = hex(&hash.clone().finalize())[..16].to_owned();
        match &self.basis {
            // The run that found the basis is the same run when it goes on with it.
            Some(basis) if !basis.is_of(&found) => {
                hash.update(&basis.sha256);
                hex(&hash.finalize())[..16].to_owned()
            }
            _ => found,
        }
    }
}
