//! A catalogue that is open: its objects and shards, and its spectra.

mod agreement;
pub(crate) mod batches;
pub(crate) mod decode;
pub(crate) mod exclude_list;
pub(crate) mod fetch;
pub(crate) mod kept_spectra;
pub(crate) mod listing;
pub(crate) mod object;
mod open;
mod pattern;
pub(crate) mod row_group;
pub(crate) mod schema;
pub(crate) mod simulated;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use fisherflow_spectra::{
    BatchShape, CatalogueColumns, ErrorKind, FluxError, Group, LabelErrorKind, LabelErrors, MaskKind, ObjectVersion,
    Shard, StarKey,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::catalogue::decode::star_keys;
use crate::catalogue::fetch::{Fetch, FetchPlan};
use crate::catalogue::kept_spectra::KeptSpectra;
use crate::catalogue::object::columns_of;
use crate::hex::hex;
use crate::line::known_catalogue::types_of;
use crate::{CatalogueFacts, ExcludeList, StoreError, Stores};

/// What to do with an object of a catalogue that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadObject {
    /// The run ends.
    Fail,
    /// The object is left out, and listed.
    Skip,
}

/// An object that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedObject {
    /// Its URI.
    pub object: String,
    /// Why.
    pub reason: String,
}

/// The row group of a catalogue of which most is read: row groups are read whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LargestRowGroup {
    /// URI of its object.
    pub object: String,
    /// Rows of the longest row group there.
    pub rows: u64,
    /// Bytes that are read of it, as they are stored.
    pub bytes: u64,
}

/// What is known of a catalogue once its footers are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueSummary {
    /// As given.
    pub uri: String,
    /// What the names of its objects start from: the part of the URI before any `*`, absolute.
    pub folder: String,
    /// Which column is what.
    pub columns: CatalogueColumns,
    /// Pixels of a spectrum; 0 where there is no spectrum.
    pub n_pixels: usize,
    /// The objects, by path, those without rows included.
    pub objects: Vec<ObjectVersion>,
    /// The row groups, in the order of the objects and then of the file; those without rows left out.
    pub shards: Vec<Shard>,
    /// Of each object, by path, the bytes that are read of its largest row group, as they are stored.
    pub row_group_bytes: BTreeMap<String, u64>,
    /// Objects that were left out.
    pub skipped: Vec<SkippedObject>,
}

/// A catalogue, opened.
#[derive(Clone, Debug)]
pub struct Catalogue {
    stores: Stores,
    summary: CatalogueSummary,
    row_schema: SchemaRef,
    /// Of a pixel in memory, in the widest of the objects looked into.
    pixel_bits: u64,
    excluded: Option<Arc<ExcludeList>>,
    kept: Arc<KeptSpectra>,
}

impl Catalogue {
    /// The catalogue without the spectra whose identifiers stand in these tables: they keep their place, flagged `EXCLUDED`.
    ///
    /// # Errors
    /// A table is not there, or its column of identifiers is missing or of another type than the catalogue's.
    pub fn excluding(mut self, tables: &[String]) -> Result<Self, StoreError> {
        if !tables.is_empty() {
            let (id, by) = (&self.summary.columns.id, &self.summary.uri);
            let type_of_id = self.row_schema.field(0).data_type();
            let list = ExcludeList::read(&self.stores, tables, id, type_of_id, by)?;
            self.excluded = Some(Arc::new(list));
        }
        Ok(self)
    }

    /// The spectra that are left out by identifier, where there is a list.
    #[must_use]
    pub fn excluded(&self) -> Option<&ExcludeList> {
        self.excluded.as_deref()
    }

    /// What is known of it since its footers were read.
    #[must_use]
    pub fn summary(&self) -> &CatalogueSummary {
        &self.summary
    }

    /// Which column is what.
    #[must_use]
    pub fn columns(&self) -> &CatalogueColumns {
        &self.summary.columns
    }

    /// Number of spectra.
    #[must_use]
    pub fn n_rows(&self) -> u64 {
        self.summary.shards.iter().map(|shard| shard.n_rows).sum()
    }

    /// Pixels of a spectrum; 0 where there is no spectrum.
    #[must_use]
    pub fn n_pixels(&self) -> usize {
        self.summary.n_pixels
    }

    /// Bits that a pixel of a spectrum has in memory once it is decoded: of its flux, its error and its mask.
    #[must_use]
    pub fn pixel_bits(&self) -> u64 {
        self.pixel_bits
    }

    /// Bytes of its objects.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.summary.objects.iter().map(|object| object.size).sum()
    }

    /// What the names of its objects start from: the part of its URI before any `*`, absolute.
    #[must_use]
    pub fn folder(&self) -> &str {
        &self.summary.folder
    }

    /// Its shards, in order.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.summary.shards
    }

    /// The row group of which most is read; none where there is no object.
    #[must_use]
    pub fn largest_row_group(&self) -> Option<LargestRowGroup> {
        let (object, &bytes) = self.summary.row_group_bytes.iter().max_by_key(|(_, bytes)| **bytes)?;
        let of_object = self.summary.shards.iter().filter(|shard| shard.object.path == *object);
        Some(LargestRowGroup {
            object: object.clone(),
            rows: of_object.map(|shard| shard.n_rows).max().unwrap_or(0),
            bytes,
        })
    }

    /// Bytes that are read of the largest row group of one of its objects.
    #[must_use]
    pub fn row_group_bytes(&self, object: &ObjectVersion) -> u64 {
        let bytes = self.summary.row_group_bytes.get(&object.path);
        bytes.copied().unwrap_or(0)
    }

    /// The objects that were left out.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedObject] {
        &self.summary.skipped
    }

    /// The identifier (first) and the kept columns: the schema of [`fisherflow_spectra::SpectrumBatch::rows`].
    #[must_use]
    pub fn row_schema(&self) -> &SchemaRef {
        &self.row_schema
    }

    /// SHA-256, in hexadecimal, of the path, size and etag of every object: another version of the catalogue has another one.
    #[must_use]
    pub fn etags_sha256(&self) -> String {
        let mut hash = Sha256::new();
        for object in &self.summary.objects {
            let etag = object.etag.as_deref().unwrap_or("");
            hash.update(format!("{}\n{}\n{etag}\n", object.path, object.size));
        }
        hex(&hash.finalize())
    }

    /// The objects that were written, or touched, after a moment, RFC 3339 in UTC, as the store dates them; none of which it does not say when.
    ///
    /// # Errors
    /// The name of an object is none.
    pub fn written_after(&self, moment: &str) -> Result<Vec<String>, StoreError> {
        let objects = &self.summary.objects;
        let times = self
            .stores
            .times_of(objects.iter().map(|object| object.path.as_str()))?;
        let later = times.into_iter().filter(|(_, written)| written.as_str() > moment);
        Ok(later.map(|(object, _)| object).collect())
    }

    /// From here on, at most so many bytes of its spectra stay in memory as they are decoded, and are not read again; at first none. Where more
    /// are kept, they are let go.
    pub fn keep(&self, bytes: u64) {
        self.kept.limit(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// The spectra of a group, in order, in batches of at most `batch_rows` rows, none across two shards.
    ///
    /// They are read and decoded ahead on threads of the store, with at most about `prefetch_bytes` in flight beyond the row group and the
    /// batch at hand; or with the next row group, where that is larger.
    #[must_use]
    pub fn fetch(&self, group: &Group, batch_rows: usize, prefetch_bytes: usize) -> Fetch {
        self.fetch_some(group, None, batch_rows, prefetch_bytes)
    }

    /// Those of them alone that [are held out](fisherflow_spectra::is_held_out) at this fraction; `positions` of a batch count no others.
    #[must_use]
    pub fn fetch_held_out(&self, group: &Group, fraction: f64, batch_rows: usize, prefetch_bytes: usize) -> Fetch {
        self.fetch_some(group, Some(fraction), batch_rows, prefetch_bytes)
    }

    fn fetch_some(&self, group: &Group, held_out: Option<f64>, batch_rows: usize, prefetch_bytes: usize) -> Fetch {
        Fetch::start(FetchPlan {
            stores: self.stores.clone(),
            columns: self.summary.columns.clone(),
            row_schema: self.row_schema.clone(),
            shape: self.shape(),
            excluded: self.excluded.clone(),
            shards: group.shards.clone(),
            held_out,
            kept: Arc::clone(&self.kept),
            batch_rows,
            prefetch_bytes,
        })
    }

    /// The identifiers of a group, as the catalogue types them, in order: that column alone is read.
    ///
    /// # Errors
    /// An object cannot be read, or was replaced.
    pub fn ids(&self, group: &Group) -> Result<Vec<ArrayRef>, StoreError> {
        let id = self.summary.columns.id.as_str();
        let read = self.stores.block_on(columns_of(&self.stores, &group.shards, &[id]))?;
        Ok(read.iter().flatten().flat_map(RecordBatch::columns).cloned().collect())
    }

    /// The keys of the spectra of shards that have all their labels and are not left out, in order: identifiers and labels alone are read. Without
    /// label columns they are of identifiers.
    ///
    /// # Errors
    /// An object cannot be read, or was replaced.
    pub fn star_keys(&self, shards: &[Shard]) -> Result<Vec<StarKey>, StoreError> {
        let columns = &self.summary.columns;
        let names: Vec<&str> = std::iter::once(&columns.id)
            .chain(&columns.labels)
            .map(String::as_str)
            .collect();
        let read = self.stores.block_on(columns_of(&self.stores, shards, &names))?;
        let mut keys = Vec::new();
        for (shard, batches) in shards.iter().zip(&read) {
            for batch in batches {
                keys.extend(star_keys(columns, self.excluded(), &shard.object.path, batch)?);
            }
        }
        Ok(keys)
    }

    /// What its objects agree on.
    #[must_use]
    pub fn facts(&self) -> CatalogueFacts {
        CatalogueFacts {
            columns: self.summary.columns.clone(),
            n_pixels: self.summary.n_pixels,
            types: types_of(&self.row_schema),
        }
    }

    /// What every row of a batch has.
    #[must_use]
    pub fn shape(&self) -> BatchShape {
        let columns = &self.summary.columns;
        BatchShape {
            n_pixels: self.summary.n_pixels,
            n_labels: columns.labels.len(),
            error: match columns.error {
                FluxError::Sigma(_) => ErrorKind::Sigma,
                FluxError::Ivar(_) => ErrorKind::Ivar,
                FluxError::Exact => ErrorKind::Exact,
            },
            label_error: match columns.label_errors {
                LabelErrors::None => LabelErrorKind::None,
                LabelErrors::Sigma(_) => LabelErrorKind::Sigma,
                LabelErrors::Covariance(_) => LabelErrorKind::Covariance,
            },
            mask: match columns.mask {
                Some(_) => MaskKind::Given,
                None => MaskKind::NotGiven,
            },
        }
    }
}
