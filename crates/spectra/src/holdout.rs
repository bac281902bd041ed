//! Which spectra are held out: by hash of a key, so that the choice depends on nothing else and holds for ever.

use crate::key_hash::{hash64, unit};

/// A number in `[0, 1)`, uniform over keys: the first 53 bits of the key's SHA-256.
///
/// ```
/// use fisherflow_spectra::holdout_hash;
/// assert!((holdout_hash("") - 0.889_415_994_9).abs() < 1e-9);
/// ```
#[must_use]
pub fn holdout_hash(key: &str) -> f64 {
    unit(hash64(key))
}

/// Whether a spectrum with this hash belongs to the held-out fraction.
#[must_use]
pub fn is_held_out(hash: f64, holdout_fraction: f64) -> bool {
    hash < holdout_fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_nothing_holds_nothing_out_and_of_all_everything() {
        let last = 1.0 - f64::EPSILON / 2.0;
        assert!(!is_held_out(0.0, 0.0) && is_held_out(last, 1.0));
        assert!(!is_held_out(0.25, 0.25) && is_held_out(0.25, 0.25 + f64::EPSILON));
    }

    #[test]
    fn hashes_are_uniform_and_stable() {
        // SHA-256("abc") = ba7816bf 8f01cfea ...
        assert_eq!(
            holdout_hash("abc"),
            (0xba78_16bf_8f01_cfea_u64 >> 11) as f64 / 2f64.powi(53)
        );
        let n = 20_000;
        let held = (0..n)
            .filter(|i| is_held_out(holdout_hash(&format!("star-{i}")), 0.1))
            .count();
        // Binomial: 2000 +- 42.
        assert!((1800..2200).contains(&held), "{held}");
    }
}
