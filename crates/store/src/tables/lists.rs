//! Columns of lists with one child field, `element`, that is never null.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, PrimitiveBuilder};
use arrow_array::{ArrayRef, ArrowPrimitiveType, Float64Array, ListArray};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, Field};

/// The field of a list column.
pub(crate) fn list_field(name: &str, element: DataType, nullable: bool) -> Field {
    Field::new(name, DataType::List(Arc::new(element_field(element))), nullable)
}

/// A column of lists of numbers; `None` = null.
pub(crate) fn lists<'a, T: ArrowPrimitiveType>(rows: impl Iterator<Item = Option<&'a [T::Native]>>) -> ArrayRef {
    let mut builder = ListBuilder::new(PrimitiveBuilder::<T>::new()).with_field(element_field(T::DATA_TYPE));
    for row in rows {
        if let Some(values) = row {
            builder.values().append_slice(values);
        }
        builder.append(row.is_some());
    }
    Arc::new(builder.finish())
}

/// A column of lists of doubles, each of `width` of the values.
pub(crate) fn f64_rows(values: Vec<f64>, width: usize) -> Result<ArrayRef, ArrowError> {
    let n = values.len().checked_div(width).unwrap_or(0);
    let lists = ListArray::try_new(
        Arc::new(element_field(DataType::Float64)),
        OffsetBuffer::from_lengths(std::iter::repeat_n(width, n)),
        Arc::new(Float64Array::from(values)),
        None,
    )?;
    Ok(Arc::new(lists))
}

fn element_field(element: DataType) -> Field {
    Field::new("element", element, false)
}
