//! Opens a catalogue: looks into each object, leaves out what cannot be used, and brings them together where they agree.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use fisherflow_spectra::{CatalogueColumns, ObjectVersion};
use futures::StreamExt;

use crate::catalogue::listing::remedy;
use crate::catalogue::object::{agrees, open_object, probed_pixels, shards};
use crate::line::known_catalogue::types_of;
use crate::objects::async_reader::ObjectReader;
use crate::objects::location::folder_of;
use crate::{Catalogue, CatalogueSummary, KnownCatalogue, OnBadObject, SkippedObject, StoreError, Stores};

/// Footers read at a time.
const FOOTERS: usize = 16;

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
            let (unchanged, mut to_open): (Vec<_>, Vec<_>) =
                listed.iter().cloned().partition(|version| known.knows(version));
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
                    let bytes = known.row_group_bytes(&version);
                    summary
                        .row_group_bytes
                        .extend(bytes.map(|bytes| (version.path.clone(), bytes)));
                    summary.shards.extend(known.shards(&version).into_iter().flatten());
                    summary.objects.push(version);
                }
                summary.objects.sort();
                summary.leave_out(dangling);
                summary
                    .shards
                    .sort_by(|a, b| (&a.object.path, a.row_group).cmp(&(&b.object.path, b.row_group)));
                return Ok(Self::of(stores, summary, row_schema, pixel_bits));
            }
        }
        let (mut summary, looked_into) = open_listed(stores, uri, columns, on_bad_object, listed, 0)?;
        summary.leave_out(dangling);
        let Some((row_schema, pixel_bits)) = looked_into else {
            return Err(no_match(uri, &summary.skipped, None));
        };
        Ok(Self::of(stores, summary, row_schema, pixel_bits))
    }

    /// Nothing excluded, no spectra kept.
    fn of(stores: &Stores, summary: CatalogueSummary, row_schema: SchemaRef, pixel_bits: u64) -> Self {
        Self {
            stores: stores.clone(),
            summary,
            row_schema,
            pixel_bits,
            excluded: None,
            kept: Arc::default(),
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
        row_group_bytes: BTreeMap::new(),
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
                summary
                    .row_group_bytes
                    .insert(opened.version.path.clone(), opened.row_group_bytes);
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
