//! A catalogue: which objects a URI names, whether they fit together, and which shards they hold.

pub(crate) mod batches;
pub(crate) mod decode;
pub(crate) mod exclude_list;
pub(crate) mod fetch;
pub(crate) mod kept_spectra;
pub(crate) mod listing;
pub(crate) mod object;
pub(crate) mod row_group;
pub(crate) mod schema;
pub(crate) mod simulated;

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::SchemaRef;
use fisherflow_spectra::{
    BatchShape, CatalogueColumns, ErrorKind, FluxError, Group, LabelErrorKind, LabelErrors, MaskKind, ObjectVersion,
    Shard,
};
use futures::StreamExt;
use parquet::file::metadata::PageIndexPolicy;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::catalogue::fetch::{Fetch, FetchPlan};
use crate::catalogue::kept_spectra::KeptSpectra;
use crate::catalogue::listing::remedy;
use crate::catalogue::object::{agrees, id_column, open_object, probed_pixels, shards};
use crate::catalogue::schema::{pixel_bits, row_schema};
use crate::hex::hex;
use crate::line::known_catalogue::types_of;
use crate::objects::async_reader::ObjectReader;
use crate::objects::location::folder_of;
use crate::{CatalogueFacts, ExcludeList, KnownCatalogue, StoreError, Stores};

/// Footers read at a time.
const FOOTERS: usize = 16;

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

/// What is known of a catalogue once its footers are read: enough for another process to fetch from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl CatalogueSummary {
    /// Counts further objects among those left out, by path.
    fn leave_out(&mut self, objects: Vec<SkippedObject>) {
        self.skipped.extend(objects);
        self.skipped.sort_by(|a, b| a.object.cmp(&b.object));
    }
}

impl Catalogue {
    /// Lists the objects of a catalogue and reads their footers, all of them: what is wrong with an object is told here, before any work.
    ///
    /// # Errors
    /// No object matches, or, with [`OnBadObject::Fail`], an object that cannot be used: a link that leads nowhere, empty, truncated, not
    /// Parquet, a column missing, there twice or of another type, another number of pixels than the objects before it. With `Skip`: no object is left.
    pub fn open(
        stores: &Stores,
        uri: &str,
        columns: &CatalogueColumns,
        on_bad_object: OnBadObject,
    ) -> Result<Self, StoreError> {
        Self::open_knowing(stores, uri, columns, on_bad_object, None)
    }

    /// The same, without looking into objects that are `known` in the version that is there.
    ///
    /// # Errors
    /// As [`Catalogue::open`], of the other objects.
    pub fn open_knowing(
        stores: &Stores,
        uri: &str,
        columns: &CatalogueColumns,
        on_bad_object: OnBadObject,
        known: Option<&KnownCatalogue<'_>>,
    ) -> Result<Self, StoreError> {
        columns.validate()?;
        let mut listing = stores.listing(uri)?;
        if on_bad_object == OnBadObject::Fail && !listing.dangling.is_empty() {
            return Err(listing.dangling.swap_remove(0).1);
        }
        let dangling: Vec<SkippedObject> = listing
            .dangling
            .iter()
            .map(|(link, error)| left_out(link, error))
            .collect();
        let unread = listing.left_out_of(uri, stores);
        let listed = listing.objects;
        if listed.is_empty() {
            return Err(no_match(uri, &dangling, unread.as_deref()));
        }
        if let Some(pattern) = unread {
            tracing::warn!(
                catalogue = uri,
                pattern,
                "the folders in the catalogue's folder are not read; the pattern reads them too"
            );
        }
        if let Some((known, facts)) = known.and_then(|known| Some((known, known.facts_for(columns)?))) {
            let (unchanged, mut to_open): (Vec<_>, Vec<_>) = listed
                .iter()
                .cloned()
                .partition(|version| known.shards(version).is_some());
            let mut unchanged = unchanged.into_iter();
            if to_open.is_empty() {
                // One is opened, for the types of the columns.
                to_open.extend(unchanged.next());
            }
            let looked_into = open_listed(stores, uri, columns, on_bad_object, to_open, facts.n_pixels)?;
            if let (mut summary, Some((row_schema, pixel_bits))) = looked_into
                && types_of(&row_schema) == facts.types
            {
                for version in unchanged {
                    summary.shards.extend(known.shards(&version).into_iter().flatten());
                    summary.objects.push(version);
                }
                summary.objects.sort();
                summary.leave_out(dangling);
                summary
                    .shards
                    .sort_by(|a, b| (&a.object.path, a.row_group).cmp(&(&b.object.path, b.row_group)));
                return Ok(Self {
                    stores: stores.clone(),
                    summary,
                    row_schema,
                    pixel_bits,
                    excluded: None,
                    kept: Arc::default(),
                });
            }
        }
        let (mut summary, looked_into) = open_listed(stores, uri, columns, on_bad_object, listed, 0)?;
        summary.leave_out(dangling);
        let Some((row_schema, pixel_bits)) = looked_into else {
            return Err(no_match(uri, &summary.skipped, None));
        };
        Ok(Self {
            stores: stores.clone(),
            summary,
            row_schema,
            pixel_bits,
            excluded: None,
            kept: Arc::default(),
        })
    }

    /// A catalogue as another process opened it: one footer is read again.
    ///
    /// # Errors
    /// Its first object cannot be read any more.
    pub fn from_summary(stores: &Stores, summary: CatalogueSummary) -> Result<Self, StoreError> {
        let first = summary.objects.first().ok_or_else(|| StoreError::NoMatch {
            uri: summary.uri.clone(),
            hint: "nothing is there".to_owned(),
        })?;
        let reader = ObjectReader::new(stores, first.clone())?;
        let footer = stores.block_on(reader.footer(PageIndexPolicy::Skip))?;
        let row_schema = row_schema(reader.object(), footer.schema(), &summary.columns)?;
        let pixel_bits = pixel_bits(footer.schema(), &summary.columns);
        Ok(Self {
            stores: stores.clone(),
            summary,
            row_schema,
            pixel_bits,
            excluded: None,
            kept: Arc::default(),
        })
    }

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

    /// What another process needs to know.
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
    /// batch at hand.
    #[must_use]
    pub fn fetch(&self, group: &Group, batch_rows: usize, prefetch_bytes: usize) -> Fetch {
        self.fetch_some(group, None, batch_rows, prefetch_bytes)
    }

    /// Those of them alone that [are held out](fisherflow_spectra::is_held_out) at this fraction; `first_row` of a batch counts no others.
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
        let id = &self.summary.columns.id;
        let mut ids = Vec::new();
        for shard in &group.shards {
            let reader = ObjectReader::new(&self.stores, shard.object.clone())?;
            ids.extend(self.stores.block_on(id_column(&reader, shard.row_group, id))?);
        }
        Ok(ids)
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

/// Reads the footers of objects: what they hold, and, if there is one, the identifier and the kept columns as the first of them has them and the
/// bits of a pixel of the widest. `n_pixels`: of the objects that are known already, or 0.
fn open_listed(
    stores: &Stores,
    uri: &str,
    columns: &CatalogueColumns,
    on_bad_object: OnBadObject,
    objects: Vec<ObjectVersion>,
    n_pixels: usize,
) -> Result<(CatalogueSummary, Option<(SchemaRef, u64)>), StoreError> {
    let readers = objects
        .into_iter()
        .map(|version| ObjectReader::new(stores, version.clone()).map(|r| (version, r)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut footers = stores.block_on(
        futures::stream::iter(readers)
            .map(|(version, reader)| async move {
                let opened = open_object(&reader, version, columns).await;
                (reader, opened)
            })
            .buffered(FOOTERS)
            .collect::<Vec<_>>(),
    );
    // A footer's count is a claim, for the lengths of bad rows can add up to any number: believed where it is what rows have said. A footer that
    // counts none, for a single null is enough, is taken as it is once the number is known: rows of another one are flagged where they are decoded.
    let mut pixels = (n_pixels > 0).then_some(n_pixels);
    for (reader, opened) in &mut footers {
        let Ok(object) = opened else { continue };
        if pixels.is_some() && (object.n_pixels.is_none() || object.n_pixels == pixels) {
            continue;
        }
        match stores.block_on(probed_pixels(reader, &columns.flux)) {
            Ok(probed) => {
                object.n_pixels = probed.or(object.n_pixels);
                pixels = pixels.or(object.n_pixels);
            }
            Err(error) => *opened = Err(error),
        }
    }
    let mut summary = CatalogueSummary {
        uri: uri.to_owned(),
        folder: folder_of(uri)?,
        columns: columns.clone(),
        n_pixels,
        objects: Vec::new(),
        shards: Vec::new(),
        skipped: Vec::new(),
    };
    let mut first: Option<(String, SchemaRef)> = None;
    let mut pixel_bits = 0;
    let mut pixels_by = "the objects that are known".to_owned();
    for (reader, opened) in footers {
        let fits =
            opened.and_then(|opened| agrees(&opened, first.as_ref(), summary.n_pixels, &pixels_by).map(|()| opened));
        match fits {
            Ok(opened) => {
                if let (0, Some(found)) = (summary.n_pixels, opened.n_pixels) {
                    summary.n_pixels = found;
                    pixels_by.clone_from(&opened.version.path);
                }
                first.get_or_insert_with(|| (opened.version.path.clone(), opened.row_schema.clone()));
                pixel_bits = pixel_bits.max(opened.pixel_bits);
                summary.shards.extend(shards(&opened));
                summary.objects.push(opened.version);
            }
            Err(error) if on_bad_object == OnBadObject::Skip && is_about_the_object(&error) => {
                summary.skipped.push(left_out(reader.object(), &error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((summary, first.map(|(_, row_schema)| (row_schema, pixel_bits))))
}

fn left_out(object: &str, error: &StoreError) -> SkippedObject {
    tracing::warn!(object, %error, "object left out");
    SkippedObject {
        object: object.to_owned(),
        reason: error.to_string(),
    }
}

/// The error of a catalogue without objects. `unread`: a pattern by which there would be some.
fn no_match(uri: &str, skipped: &[SkippedObject], unread: Option<&str>) -> StoreError {
    let hint = match skipped.first() {
        Some(first) => format!(
            "all {} objects were left out, the first because {}",
            skipped.len(),
            first.reason
        ),
        None => remedy(unread),
    };
    StoreError::NoMatch {
        uri: uri.to_owned(),
        hint,
    }
}

/// Whether leaving the object out is an answer; a store that does not answer at all is none.
fn is_about_the_object(error: &StoreError) -> bool {
    !matches!(
        error,
        StoreError::Unreachable { .. }
            | StoreError::NoCredentials { .. }
            | StoreError::Exhausted { .. }
            | StoreError::Expired { .. }
            | StoreError::Replaced { .. }
            | StoreError::Spectra(_)
    )
}
