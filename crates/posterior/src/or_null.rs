//! Numbers that may be none, in documents and messages: JSON has no word for what is not finite, and would write one that is not read back as a
//! number. It is NaN then.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

fn known(value: f64) -> Option<f64> {
    Some(value).filter(|value| !value.is_nan())
}

pub(crate) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    known(*value).serialize(to)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// The same of several.
pub(crate) mod each {
    use super::{Deserialize, Deserializer, Serialize, Serializer, known};

    pub(crate) fn serialize<S: Serializer>(values: &[f64], to: S) -> Result<S::Ok, S::Error> {
        values
            .iter()
            .map(|&value| known(value))
            .collect::<Vec<_>>()
            .serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
        let values = Vec::<Option<f64>>::deserialize(from)?;
        Ok(values.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect())
    }
}
