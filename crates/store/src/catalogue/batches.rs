//! Batches of spectra out of the rows of a row group, none across two row groups.

use arrow_array::RecordBatch;
use fisherflow_spectra::SpectrumBatch;
use tokio::sync::OwnedSemaphorePermit;

use crate::catalogue::decode::Decoder;
use crate::catalogue::row_group::{RowGroup, decoded};
use crate::{Cause, StoreError};

/// Decodes a row group batch by batch, each once there is `room` for so many rows; `Ok(false)` where nobody takes them any more.
///
/// # Errors
/// Its rows are not as the footer says.
pub(crate) fn decode_row_group(
    row_group: RowGroup,
    decoder: &Decoder,
    batch_rows: usize,
    mut room: impl FnMut(usize) -> Option<OwnedSemaphorePermit>,
    mut send: impl FnMut(SpectrumBatch, OwnedSemaphorePermit) -> Option<()>,
) -> Result<bool, StoreError> {
    let (n_rows, shard) = (row_group.n_rows, row_group.shard.clone());
    let mut first_row = 0;
    let mut pieces = Pieces { row_group, rest: None };
    while first_row < n_rows {
        let wanted = usize::try_from(n_rows - first_row).map_or(batch_rows, |left| left.min(batch_rows));
        let Some(room) = room(wanted) else { return Ok(false) };
        let batch = decoded(&shard, || pieces.batch(decoder, first_row, wanted))?;
        let found = batch.n_rows();
        if found < wanted {
            let found = first_row + found as u64;
            let says = Cause::said(format!("{found} of {n_rows} rows"));
            return Err(pieces.row_group.damaged(says));
        }
        first_row += found as u64;
        if send(batch, room).is_none() {
            return Ok(false);
        }
    }
    // No row is left out either: pages may hold more than the footer says.
    if decoded(&shard, || pieces.next())?.is_some() {
        let says = Cause::said(format!("more than {n_rows} rows"));
        return Err(pieces.row_group.damaged(says));
    }
    pieces.row_group.keep();
    Ok(true)
}

/// The rows of a row group, cut where batches end.
struct Pieces {
    row_group: RowGroup,
    /// Rows that came with the batch before.
    rest: Option<RecordBatch>,
}

impl Pieces {
    /// The next `wanted` rows, or as many as there are.
    fn batch(&mut self, decoder: &Decoder, first_row: u64, wanted: usize) -> Result<SpectrumBatch, StoreError> {
        let mut decoding = decoder.begin(wanted);
        let mut missing = wanted;
        while missing > 0
            && let Some(piece) = self.next()?
        {
            let n = missing.min(piece.num_rows());
            decoder.push(&mut decoding, &self.row_group.shard.object.path, &piece.slice(0, n))?;
            if n < piece.num_rows() {
                self.rest = Some(piece.slice(n, piece.num_rows() - n));
            }
            missing -= n;
        }
        decoder.finish(decoding, &self.row_group.shard, first_row)
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        match self.rest.take() {
            Some(rest) => Ok(Some(rest)),
            None => self.row_group.next(),
        }
    }
}
