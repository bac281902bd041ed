//! Checks of the sizes of small arrays, one row a star, at the crate's boundary.

use crate::PosteriorError;

/// The number of stars in `[n, K]` values.
pub(crate) fn check_batch(what: &str, values: &[f64], k: usize) -> Result<usize, PosteriorError> {
    if k > 0 && values.len().is_multiple_of(k) {
        Ok(values.len() / k)
    } else {
        Err(PosteriorError::Shape {
            what: what.to_owned(),
            expected: vec![values.len() / k.max(1), k],
            found: vec![values.len()],
        })
    }
}

/// That there is one `[K, K]` covariance for each of `batch` stars.
pub(crate) fn check_covariances(what: &str, values: &[f64], batch: usize, k: usize) -> Result<(), PosteriorError> {
    if values.len() == batch * k * k {
        Ok(())
    } else {
        Err(PosteriorError::Shape {
            what: what.to_owned(),
            expected: vec![batch, k, k],
            found: vec![values.len()],
        })
    }
}

/// That two collections are of the same number of labels.
pub(crate) fn check_merge(what: &str, own: usize, other: usize) -> Result<(), PosteriorError> {
    if own == other {
        Ok(())
    } else {
        Err(PosteriorError::Shape {
            what: format!("{what} to merge"),
            expected: vec![own],
            found: vec![other],
        })
    }
}
