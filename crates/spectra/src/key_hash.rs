//! The hash by which spectra are held out, known again and groups end: of a name alone, the same for ever and everywhere.

use sha2::{Digest, Sha256};

/// The first 8 bytes of the SHA-256 of a name, the first of them highest.
pub(crate) fn hash64(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest
        .iter()
        .take(8)
        .fold(0u64, |bits, &byte| (bits << 8) | u64::from(byte))
}

/// A hash as a number in `[0, 1)`: its first 53 bits.
pub(crate) fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_sha256() {
        // SHA-256("abc") = ba7816bf 8f01cfea ...
        assert_eq!(super::hash64("abc"), 0xba78_16bf_8f01_cfea);
    }
}
