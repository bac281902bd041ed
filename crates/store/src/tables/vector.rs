//! A vector of doubles that a user hands over: `.npy`, `.parquet`, or text.

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

use crate::tables::npy::from_npy;
use crate::tables::table::Table;
use crate::{StoreError, Stores};

/// Rows of a Parquet file that are decoded at a time.
const BATCH_ROWS: usize = 65_536;
/// The column of a Parquet file that is taken where there are several: queries write it.
const VALUE: &str = "value";

/// Reads a vector: of a `.npy` file all values, of a `.parquet` file the column `value` or the only one, of any other file the numbers that
/// stand in it, apart by white space or commas; in text a `#` makes the rest of a line a comment.
///
/// # Errors
/// It is not there, or is no vector of finite numbers.
pub fn read_vector(stores: &Stores, uri: &str) -> Result<Vec<f64>, StoreError> {
    let bad = |reason: String| StoreError::BadVector {
        uri: uri.to_owned(),
        reason,
    };
    let lower = uri.to_lowercase();
    let values = if lower.ends_with(".parquet") {
        from_parquet(stores, uri)?
    } else {
        let bytes = stores.read(uri)?;
        if lower.ends_with(".npy") {
            from_npy(&bytes).map_err(bad)?
        } else {
            from_text(&bytes).map_err(bad)?
        }
    };
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(values),
        Some(at) => Err(bad(format!("value {at} (counted from 0) is {}", values[at]))),
    }
}

fn from_text(bytes: &[u8]) -> Result<Vec<f64>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is neither text nor named .npy or .parquet".to_owned())?;
    let mut values = Vec::new();
    for (line, text) in text.lines().enumerate() {
        let numbers = text.split('#').next().unwrap_or_default();
        for word in numbers.split([',', ' ', '\t', '\r']).filter(|word| !word.is_empty()) {
            let number = word.parse();
            values.push(number.map_err(|_| format!("line {} has {word:?}, which is no number", line + 1))?);
        }
    }
    Ok(values)
}

fn from_parquet(stores: &Stores, uri: &str) -> Result<Vec<f64>, StoreError> {
    let table = Table::open(stores, uri)?;
    let fields = table.schema().fields();
    let only = (fields.len() == 1).then(|| fields[0].name().as_str());
    let column = only.unwrap_or(VALUE);
    let mut values = Vec::new();
    for batch in table.batches(Some(&[column]), BATCH_ROWS)? {
        append(uri, column, &batch?, &mut values)?;
    }
    Ok(values)
}

fn append(uri: &str, column: &str, batch: &RecordBatch, values: &mut Vec<f64>) -> Result<(), StoreError> {
    let numbers = batch.column(0);
    let doubles = numbers
        .data_type()
        .is_numeric()
        .then(|| arrow_cast::cast(numbers, &DataType::Float64).ok())
        .flatten()
        .ok_or_else(|| StoreError::ColumnType {
            object: uri.to_owned(),
            column: column.to_owned(),
            found: numbers.data_type().to_string(),
            expected: "a column of numbers".to_owned(),
        })?;
    if doubles.null_count() > 0 {
        return Err(StoreError::BadVector {
            uri: uri.to_owned(),
            reason: format!("column \"{column}\" has nulls"),
        });
    }
    values.extend_from_slice(doubles.as_primitive::<Float64Type>().values());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_out_of_text() {
        let text = b"# out 0\n1, 2.5\t-3e-2\n\n4 # bias\r\n";
        assert_eq!(from_text(text).unwrap(), [1.0, 2.5, -3e-2, 4.0]);
        assert_eq!(from_text(b"").unwrap(), [0.0; 0]);
        let error = from_text(b"1\n2 three").unwrap_err();
        assert_eq!(error, "line 2 has \"three\", which is no number");
        assert!(from_text(&[0xff, 0xfe]).unwrap_err().contains(".npy"));
    }
}
