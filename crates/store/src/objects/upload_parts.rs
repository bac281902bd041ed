//! The parts that an object on S3 is uploaded in, made of the pieces that it is written in.
//!
//! S3 takes 10,000 parts of at most 5 GiB, and objects of at most 5 TiB. Pieces are small, for they wait in memory: the first 2,000 parts are one of
//! 16 MiB each, 31 GiB in all, and behind them a part is of the more pieces the later it comes, the last of 81. Only its number decides.

use object_store::{PutPayload, PutPayloadMut};

/// Bytes that parts grow by.
const STEP: usize = 16 << 20;
/// Parts between two steps.
const EVERY: usize = 100;
/// Parts that may be of any size.
const SMALL: usize = 1800;

/// Where parts end among the pieces.
#[derive(Debug, Default)]
pub(crate) struct PartEnds {
    ended: usize,
    waiting: usize,
}

impl PartEnds {
    /// Takes a piece of so many bytes: whether the next part ends with it.
    pub fn push(&mut self, bytes: usize) -> bool {
        self.waiting += bytes;
        let is_end = self.waiting >= least_bytes(self.ended);
        if is_end {
            self.end();
        }
        is_end
    }

    /// The end of the upload: whether something still waits, which is the last part.
    pub fn rest(&mut self) -> bool {
        let is_end = self.waiting > 0;
        if is_end {
            self.end();
        }
        is_end
    }

    fn end(&mut self) {
        self.ended += 1;
        self.waiting = 0;
    }
}

/// What of an upload was made into parts, and what waits for more.
#[derive(Debug, Default)]
pub(crate) struct UploadParts {
    ends: PartEnds,
    waiting: PutPayloadMut,
}

/// A part: its number, from 0, and its bytes.
pub(crate) type Numbered = (usize, PutPayload);

impl UploadParts {
    /// Takes a piece; the next part, where it is whole now.
    pub fn push(&mut self, piece: PutPayload) -> Option<Numbered> {
        let is_end = self.ends.push(piece.content_length());
        for bytes in piece {
            self.waiting.push(bytes);
        }
        is_end.then(|| self.last())
    }

    /// The last part, where something still waits.
    pub fn rest(&mut self) -> Option<Numbered> {
        self.ends.rest().then(|| self.last())
    }

    /// Parts so far.
    pub fn begun(&self) -> usize {
        self.ends.ended
    }

    /// The part that has just ended.
    fn last(&mut self) -> Numbered {
        (self.ends.ended - 1, std::mem::take(&mut self.waiting).freeze())
    }
}

/// Bytes of a part, at least.
fn least_bytes(part: usize) -> usize {
    part.saturating_sub(SMALL) / EVERY * STEP
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const PIECE: u64 = 16 << 20;

    /// Bytes of the parts of an object of so many bytes, no byte of which is there more than once.
    fn parts_of(bytes: u64) -> Vec<u64> {
        let piece = Bytes::from(vec![0; PIECE as usize]);
        let mut parts = UploadParts::default();
        let mut made = Vec::new();
        let mut left = bytes;
        while left > 0 {
            let next = left.min(PIECE);
            left -= next;
            made.extend(parts.push(PutPayload::from(piece.slice(..next as usize))));
        }
        made.extend(parts.rest());
        assert!(parts.rest().is_none() && parts.begun() == made.len());
        assert!(made.iter().map(|(number, _)| *number).eq(0..made.len()));
        made.iter().map(|(_, part)| part.content_length() as u64).collect()
    }

    #[test]
    fn the_largest_object_fits_and_a_small_one_has_small_parts() {
        let whole: u64 = 5 << 40;
        let parts = parts_of(whole);
        assert!(parts.len() <= 10_000, "{} parts", parts.len());
        assert_eq!(parts.iter().sum::<u64>(), whole);
        assert!(parts.is_sorted_by(|a, b| a <= b || *b == parts[parts.len() - 1]));
        assert!(parts.iter().all(|part| (PIECE..5 << 30).contains(part)));

        let small = parts_of(2000 * PIECE + 5);
        assert_eq!(small[..2000], [PIECE; 2000]);
        assert_eq!(small[2000..], [5]);
        // What a part is depends on its number alone.
        assert_eq!(parts[..2000], small[..2000]);
        assert_eq!(parts[2000], 2 * PIECE);
        assert!(parts_of(156 << 30).iter().all(|part| *part <= 13 * PIECE));
        assert!(parts_of(0).is_empty());
    }
}
