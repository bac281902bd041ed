//! Opens a catalogue: looks into each object, leaves out what cannot be used, and brings them together where they agree.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use fisherflow_spectra::{CatalogueColumns, ObjectVersion};
use futures::StreamExt;

use crate::catalogue::agreement::Agreement;
use crate::catalogue::listing::remedy;
use crate::catalogue::object::{Opened, open_object, probed_pixels, shards};
use crate::objects::async_reader::ObjectReader;
use crate::objects::location::{folder_of, in_s3};
use crate::{
    Catalogue, CatalogueFacts, CatalogueSummary, KnownCatalogue, OnBadObject, SkippedObject, StoreError, Stores,
};

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
    /// No object matches, or, with [`OnBadObject::Fail`], an object that cannot be used: a link that leads nowhere, a folder, a finished output's,
    /// empty, truncated, not Parquet, a column missing, there twice or of another type, another number of pixels than most objects have. With `Skip`:
    /// no object is left, or no more than half of them agree ([`StoreError::NoMajority`]).
    pub fn open(
        stores: &Stores,
        uri: &str,
        columns: &CatalogueColumns,
        on_bad_object: OnBadObject,
    ) -> Result<Self, StoreError> {
        Self::open_knowing(stores, uri, columns, on_bad_object, None, None)
    }

    /// The same, where a network says how many pixels a spectrum has, and without looking into objects that are `known` in the version that is there,
    /// and to have so many.
    ///
    /// # Errors
    /// As [`Catalogue::open`], of the other objects; another number of pixels than the network takes ([`StoreError::NetworkPixels`]).
    pub fn open_knowing(
        stores: &Stores,
        uri: &str,
        columns: &CatalogueColumns,
        on_bad_object: OnBadObject,
        n_pixels: Option<usize>,
        known: Option<&KnownCatalogue<'_>>,
    ) -> Result<Self, StoreError> {
        columns.validate()?;
        let mut listing = stores.listing(uri)?;
        listing.refuse_outputs(uri);
        if on_bad_object == OnBadObject::Fail && !listing.refused.is_empty() {
            return Err(listing.refused.swap_remove(0).1);
        }
        let refused = listing.refused.iter();
        let refused: Vec<SkippedObject> = refused.map(|(object, error)| left_out(object, error)).collect();
        let unread = listing.left_out_of(uri, stores);
        let listed = listing.objects;
        if listed.is_empty() {
            return Err(no_match(uri, &refused, unread.as_deref()));
        }
        if let Some(pattern) = unread {
            tracing::warn!(
                catalogue = uri,
                pattern,
                "the folders in the catalogue's folder are not read; the pattern reads them too"
            );
        }
        let facts = known.and_then(|known| Some((known, known.facts_for(columns, n_pixels)?)));
        let Decided {
            objects,
            unopened,
            agreement,
        } = decide(stores, columns, listed, n_pixels, facts)?;
        let (mut summary, agreed) =
            bring_together(uri, columns, on_bad_object, objects, agreement.as_ref(), unopened.len())?;
        summary.leave_out(refused);
        let Some((row_schema, pixel_bits)) = agreed else {
            return Err(no_match(uri, &summary.skipped, None));
        };
        summary.n_pixels = n_pixels.unwrap_or(summary.n_pixels);
        for version in unopened {
            let bytes = facts.and_then(|(known, _)| known.row_group_bytes(&version));
            summary
                .row_group_bytes
                .extend(bytes.map(|bytes| (version.path.clone(), bytes)));
            let shards = facts.and_then(|(known, _)| known.shards(&version));
            summary.shards.extend(shards.into_iter().flatten());
            summary.objects.push(version);
        }
        summary.objects.sort();
        summary
            .shards
            .sort_by(|a, b| (&a.object.path, a.row_group).cmp(&(&b.object.path, b.row_group)));
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

/// An object, and what it holds or why that cannot be said.
type LookedInto = (ObjectReader, Result<Opened, StoreError>);

/// What objects hold, and what those of them agree on that decide for all.
struct Decided {
    /// Those that were looked into, by path.
    objects: Vec<LookedInto>,
    /// Those that were not: they are as they are known.
    unopened: Vec<ObjectVersion>,
    /// `None` where no object can be used.
    agreement: Option<Agreement>,
}

/// Looks into objects as far as is needed to say what they have in common. Who decides that:
///
/// - The number of pixels: the network, where there is one ([`look_into`] refuses an object that has another); else most objects.
/// - The types of columns: most objects. Those that are as they are known count as like it without being looked into, but for some, until each column
///   has shown its type. Where no more than half are like it, all are looked into, and what is known says nothing.
fn decide(
    stores: &Stores,
    columns: &CatalogueColumns,
    listed: Vec<ObjectVersion>,
    n_pixels: Option<usize>,
    facts: Option<(&KnownCatalogue<'_>, &CatalogueFacts)>,
) -> Result<Decided, StoreError> {
    let is_known = |version: &ObjectVersion| facts.is_some_and(|(known, _)| known.knows(version));
    let (unchanged, to_open): (Vec<_>, Vec<_>) = listed.into_iter().partition(is_known);
    let mut unchanged = unchanged.into_iter();
    let mut objects = look_into(stores, columns, to_open, n_pixels)?;
    let is_as_known = |opened: &&Opened| facts.is_none_or(|(_, facts)| facts.fit(&opened.row_schema));
    let mut at_once = 1;
    loop {
        objects.sort_by(|(one, _), (other, _)| one.object().cmp(other.object()));
        let unlike = usable(&objects).filter(|opened| !is_as_known(opened)).count();
        let known_decides = 2 * unlike < usable(&objects).count() + unchanged.len();
        let deciding = usable(&objects).filter(|opened| !known_decides || is_as_known(opened));
        let agreement = Agreement::of(&deciding.collect::<Vec<_>>());
        let shows_known =
            |agreement: &Agreement| facts.is_some_and(|(_, facts)| facts.are_shown_by(&agreement.row_schema()));
        if unchanged.as_slice().is_empty() || (known_decides && agreement.as_ref().is_some_and(shows_known)) {
            return Ok(Decided {
                objects,
                unopened: unchanged.collect(),
                agreement,
            });
        }
        let next: Vec<ObjectVersion> = unchanged.by_ref().take(at_once).collect();
        objects.extend(look_into(stores, columns, next, n_pixels)?);
        at_once *= 2;
    }
}

/// Reads the footers of objects. `n_pixels`: of a spectrum, where that is known before.
fn look_into(
    stores: &Stores,
    columns: &CatalogueColumns,
    objects: Vec<ObjectVersion>,
    n_pixels: Option<usize>,
) -> Result<Vec<LookedInto>, StoreError> {
    let readers = objects
        .into_iter()
        .map(|version| ObjectReader::new(stores, version.clone()).map(|r| (version, r)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut objects = stores.block_on(
        futures::stream::iter(readers)
            .map(|(version, reader)| async move {
                let opened = open_object(&reader, version, columns).await;
                (reader, opened)
            })
            .buffered(FOOTERS)
            .collect::<Vec<LookedInto>>(),
    );
    // A footer's count is a claim, for the lengths of bad rows can add up to any number: believed where it is what rows have said, those of one object
    // of the many that claim the same.
    let mut pixels = n_pixels;
    let claimed = Agreement::of(&usable(&objects).collect::<Vec<_>>()).and_then(|most| most.n_pixels());
    let claims = |opened: &Result<Opened, StoreError>| opened.as_ref().ok().and_then(|opened| opened.n_pixels);
    let mut in_turn: Vec<&mut LookedInto> = objects.iter_mut().collect();
    in_turn.sort_by_key(|(_, opened)| claims(opened) != claimed);
    for (reader, opened) in in_turn {
        if pixels.is_some() {
            break;
        }
        stores.block_on(ask_spectra(reader, opened, &columns.flux, None));
        pixels = claims(opened);
    }
    let Some(pixels) = pixels else { return Ok(objects) };
    let asked = futures::stream::iter(objects).map(|(reader, mut opened)| async move {
        if let Ok(object) = &mut opened
            && object.n_pixels.is_none()
            && object.counts_as(pixels)
        {
            object.n_pixels = Some(pixels);
        }
        if opened
            .as_ref()
            .is_ok_and(|object| object.has_rows() && object.n_pixels != Some(pixels))
        {
            ask_spectra(&reader, &mut opened, &columns.flux, Some(pixels)).await;
        }
        (
            reader,
            opened.and_then(|object| of_pixels(object, &columns.flux, n_pixels)),
        )
    });
    Ok(stores.block_on(asked.buffered(FOOTERS).collect::<Vec<_>>()))
}

/// Takes what the first spectra of an object have for its number of pixels, where they say any.
async fn ask_spectra(
    reader: &ObjectReader,
    opened: &mut Result<Opened, StoreError>,
    flux: &str,
    expected: Option<usize>,
) {
    let Ok(object) = opened else { return };
    match probed_pixels(reader, flux, expected).await {
        Ok(probed) => object.n_pixels = probed.or(object.n_pixels),
        Err(error) => *opened = Err(error),
    }
}

/// The object, unless its spectra have another number of pixels than is `expected`.
fn of_pixels(object: Opened, flux: &str, expected: Option<usize>) -> Result<Opened, StoreError> {
    match (object.n_pixels, expected) {
        (Some(found), Some(expected)) if found != expected => Err(StoreError::NetworkPixels {
            object: object.version.path,
            column: flux.to_owned(),
            found,
            expected,
        }),
        _ => Ok(object),
    }
}

/// What those hold that can be used.
fn usable(objects: &[LookedInto]) -> impl Iterator<Item = &Opened> {
    objects.iter().flat_map(|(_, opened)| opened)
}

/// What the objects hold together, and, if one can be used, the identifier and the kept columns as most of them have them and the bits of a pixel
/// of the widest. `n_unopened`: objects beside them that agree.
fn bring_together(
    uri: &str,
    columns: &CatalogueColumns,
    on_bad_object: OnBadObject,
    objects: Vec<LookedInto>,
    agreement: Option<&Agreement>,
    n_unopened: usize,
) -> Result<(CatalogueSummary, Option<(SchemaRef, u64)>), StoreError> {
    let check = |opened: &Opened| agreement.map_or(Ok(()), |agreement| agreement.check(opened));
    // An odd one can be left out, but not half of them: which are meant nobody could say.
    let odd: Vec<StoreError> = usable(&objects).filter_map(|opened| check(opened).err()).collect();
    let (n_odd, of) = (odd.len(), usable(&objects).count() + n_unopened);
    if on_bad_object == OnBadObject::Skip
        && 2 * n_odd >= of
        && let Some(first) = odd.into_iter().next()
    {
        return Err(StoreError::NoMajority {
            uri: uri.to_owned(),
            odd: n_odd,
            of,
            source: Box::new(first),
        });
    }
    let mut summary = CatalogueSummary {
        uri: uri.to_owned(),
        folder: folder_of(uri)?,
        columns: columns.clone(),
        n_pixels: agreement.and_then(Agreement::n_pixels).unwrap_or(0),
        objects: Vec::new(),
        shards: Vec::new(),
        row_group_bytes: BTreeMap::new(),
        skipped: Vec::new(),
    };
    let mut pixel_bits = 0;
    for (reader, opened) in objects {
        match opened.and_then(|opened| check(&opened).map(|()| opened)) {
            Ok(opened) => {
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
    Ok((summary, agreement.map(|agreement| (agreement.row_schema(), pixel_bits))))
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

/// Whether leaving the object out is an answer; to a store that does not answer at all, or a disk that fails, it is none.
fn is_about_the_object(error: &StoreError) -> bool {
    match error {
        StoreError::Unreachable { .. }
        | StoreError::NoCredentials { .. }
        | StoreError::Exhausted { .. }
        | StoreError::Expired { .. }
        | StoreError::Replaced { .. }
        | StoreError::DiskFailed { .. }
        | StoreError::TooManyFiles { .. }
        | StoreError::Spectra(_) => false,
        // Of a disk: its server does not answer, memory is short, ...: at another time the object could be read.
        StoreError::Transfer { uri, .. } => in_s3(uri).is_some(),
        _ => true,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Cause;
    use crate::objects::disk::Disk;
    use crate::objects::failure::{Action, failed};
    use crate::objects::location::{Location, Place};

    #[test]
    fn where_a_disk_fails_no_object_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.parquet");
        std::fs::write(&file, b"PAR1").unwrap();
        let of = |code| {
            let location = Location {
                store: Arc::new(Disk::default()),
                path: file.to_str().unwrap().trim_start_matches('/').into(),
                place: Place::Local,
            };
            let error = object_store::Error::Generic {
                store: "test",
                source: std::io::Error::from_raw_os_error(code).into(),
            };
            failed(&location, Action::Read, error, &[], None)
        };
        // EIO, ESTALE, ETIMEDOUT, ENOTCONN, ENOMEM.
        for code in [5, 116, 110, 107, 12] {
            let error = of(code);
            assert!(!is_about_the_object(&error), "{error:?}");
        }
        // EACCES.
        let error = of(13);
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        assert!(is_about_the_object(&error));
        // What a store will not give of one object, whoever asks.
        let error = StoreError::Transfer {
            uri: "s3://survey/a.parquet".to_owned(),
            action: "read",
            source: Cause::said("400 Bad Request"),
        };
        assert!(is_about_the_object(&error));
    }
}
