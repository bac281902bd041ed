//! Whether the columns of an object are there, and of a type that can be used.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use fisherflow_spectra::{CatalogueColumns, FluxError, LabelErrors};

use crate::StoreError;
use crate::nearest_name::nearest;

/// Checks the schema of one object against the columns.
///
/// # Errors
/// A column is missing, there twice, or of a type that cannot be used; the object, the column and the remedy are named.
pub(crate) fn check_schema(object: &str, schema: &Schema, columns: &CatalogueColumns) -> Result<(), StoreError> {
    let check = |column: &str, fits: fn(&DataType) -> bool, expected: &str| {
        let field = find(object, schema, column)?;
        if fits(field.data_type()) {
            Ok(())
        } else {
            Err(StoreError::ColumnType {
                object: object.to_owned(),
                column: column.to_owned(),
                found: type_name(field.data_type()),
                expected: expected.to_owned(),
            })
        }
    };
    check(&columns.id, is_key, "a string or an integer")?;
    check(&columns.flux, is_float_list, "a list of float or double")?;
    match &columns.error {
        FluxError::Sigma(column) | FluxError::Ivar(column) => {
            check(column, is_float_list, "a list of float or double")?;
        }
        FluxError::Exact => {}
    }
    if let Some(mask) = &columns.mask {
        check(&mask.column, is_mask_list, "a list of integers or booleans")?;
        check_bad_bits(object, find(object, schema, &mask.column)?, &mask.bad_bits)?;
    }
    for label in &columns.labels {
        check(label, is_number, "a number")?;
    }
    match &columns.label_errors {
        LabelErrors::None => {}
        LabelErrors::Sigma(sigmas) => {
            for sigma in sigmas {
                check(sigma, is_number, "a number")?;
            }
        }
        LabelErrors::Covariance(column) => {
            let one = match columns.labels.as_slice() {
                [_] => format!("[\"{column}\"]"),
                _ => format!("[\"{column}\", ...]"),
            };
            let expected = match is_number(find(object, schema, column)?.data_type()) {
                true => format!(
                    "a list of float or double, the covariance: label_errors = {one} names a column of standard errors a label"
                ),
                false => "a list of float or double".to_owned(),
            };
            check(column, is_float_list, &expected)?;
        }
    }
    if let Some(group) = &columns.holdout_group {
        check(group, is_key, "a string or an integer")?;
    }
    for column in &columns.keep {
        find(object, schema, column)?;
    }
    check_not_masked(object, schema, columns)
}

/// Refuses bits that the numbers of a mask do not have: they would mask nothing. A boolean has every bit.
fn check_bad_bits(object: &str, mask: &Field, bad_bits: &[u8]) -> Result<(), StoreError> {
    let element = element(mask.data_type());
    let Some(bits) = element.and_then(DataType::primitive_width).map(|bytes| 8 * bytes) else {
        return Ok(());
    };
    match bad_bits.iter().find(|&&bit| usize::from(bit) >= bits) {
        None => Ok(()),
        Some(&bit) => Err(StoreError::MaskBit {
            object: object.to_owned(),
            column: mask.name().clone(),
            found: type_name(mask.data_type()),
            bits,
            bit,
        }),
    }
}

/// Refuses a column beside which another says, as astropy writes it, what of it is masked: whatever stands there would count. Which pixels do is said
/// by the `mask`, where one is named; what is only kept may be masked.
fn check_not_masked(object: &str, schema: &Schema, columns: &CatalogueColumns) -> Result<(), StoreError> {
    for column in columns.names() {
        let Some(key) = columns.key_of(column) else { continue };
        let is_of_pixels = ["flux", "sigma", "ivar", "mask"].contains(&key);
        if is_of_pixels && columns.mask.is_some() {
            continue;
        }
        check_no_mask_beside(object, schema, column, is_of_pixels)?;
    }
    Ok(())
}

/// `can_be_named`: whether `mask` could name what masks the column.
pub(crate) fn check_no_mask_beside(
    object: &str,
    schema: &Schema,
    column: &str,
    can_be_named: bool,
) -> Result<(), StoreError> {
    let mask = format!("{column}.mask");
    let is_mask = |field: &Arc<Field>| {
        let found = field.data_type();
        *field.name() == mask && *element(found).unwrap_or(found) == DataType::Boolean
    };
    if schema.fields().iter().any(is_mask) {
        return Err(StoreError::MaskedColumn {
            object: object.to_owned(),
            column: column.to_owned(),
            can_be_named,
        });
    }
    Ok(())
}

/// The identifier and the kept columns as they are written out again: all may be null, hints of other libraries are gone, and moments are in
/// microseconds at the finest, as those of INT96 are read: of a table with nanoseconds (pandas writes them) Spark reads nothing.
///
/// # Errors
/// A column is missing.
pub(crate) fn row_schema(object: &str, schema: &Schema, columns: &CatalogueColumns) -> Result<SchemaRef, StoreError> {
    let mut fields: Vec<Field> = Vec::new();
    for name in std::iter::once(&columns.id).chain(&columns.keep) {
        if fields.iter().all(|field| field.name() != name) {
            let field = find(object, schema, name)?;
            let data_type = match field.data_type() {
                DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
                    DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
                }
                other => other.clone(),
            };
            fields.push(Field::new(name, data_type, true));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// Bits that a pixel of a spectrum has in memory once it is decoded: of its flux, its error and its mask.
pub(crate) fn pixel_bits(schema: &Schema, columns: &CatalogueColumns) -> u64 {
    let error = match &columns.error {
        FluxError::Sigma(column) | FluxError::Ivar(column) => Some(column),
        FluxError::Exact => None,
    };
    let mask = columns.mask.as_ref().map(|mask| &mask.column);
    let lists = [Some(&columns.flux), error, mask].into_iter().flatten();
    let bits = lists.filter_map(
        |column| match element(schema.field_with_name(column).ok()?.data_type())? {
            DataType::Boolean => Some(1),
            number => Some(8 * number.primitive_width()? as u64),
        },
    );
    bits.sum()
}

/// A column by name.
///
/// # Errors
/// It is missing, and the nearest name is offered; or it is there more than once.
pub(crate) fn find<'a>(object: &str, schema: &'a Schema, column: &str) -> Result<&'a Field, StoreError> {
    let mut found = schema.fields().iter().filter(|field| field.name() == column);
    let first = found.next().ok_or_else(|| StoreError::MissingColumn {
        object: object.to_owned(),
        column: column.to_owned(),
        nearest: nearest(column, schema.fields().iter().map(|f| f.name().as_str())),
    })?;
    match found.count() {
        0 => Ok(first),
        further => Err(StoreError::RepeatedColumn {
            object: object.to_owned(),
            column: column.to_owned(),
            columns: 1 + further,
        }),
    }
}

pub(crate) fn is_key(t: &DataType) -> bool {
    t.is_integer() || matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_number(t: &DataType) -> bool {
    t.is_numeric()
}

fn element(t: &DataType) -> Option<&DataType> {
    match t {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            Some(field.data_type())
        }
        _ => None,
    }
}

fn is_float_list(t: &DataType) -> bool {
    element(t).is_some_and(DataType::is_floating)
}

fn is_mask_list(t: &DataType) -> bool {
    element(t).is_some_and(|t| t.is_integer() || *t == DataType::Boolean)
}

/// A type in the words of those who write catalogues.
pub(crate) fn type_name(t: &DataType) -> String {
    match t {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "a string".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        other => match element(other) {
            Some(element) => format!("a list of {}", type_name(element)),
            None => other.to_string().to_lowercase(),
        },
    }
}

#[cfg(test)]
mod tests {
    use fisherflow_spectra::Mask;

    use super::*;

    fn list(t: DataType) -> DataType {
        DataType::List(Arc::new(Field::new("element", t, true)))
    }

    fn columns() -> CatalogueColumns {
        CatalogueColumns {
            id: "id".into(),
            flux: "flux".into(),
            error: FluxError::Sigma("flux_err".into()),
            mask: None,
            labels: vec!["teff".into()],
            label_errors: LabelErrors::None,
            holdout_group: None,
            keep: vec!["snr".into()],
        }
    }

    fn schema(flux: DataType, sigma: &str) -> Schema {
        Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("flux", flux, true),
            Field::new(sigma, list(DataType::Float32), true),
            Field::new("teff", DataType::Float64, true),
            Field::new("snr", DataType::Float32, true),
        ])
    }

    #[test]
    fn a_pixel_is_as_wide_as_its_columns() {
        let floats = schema(list(DataType::Float32), "flux_err");
        assert_eq!(pixel_bits(&floats, &columns()), 32 + 32);
        let mut masked = columns();
        masked.mask = Some(Mask {
            column: "mask".into(),
            bad_bits: Vec::new(),
        });
        let with_mask = |mask| {
            let mut fields = schema(list(DataType::Float64), "flux_err").fields().to_vec();
            fields.push(Arc::new(Field::new("mask", list(mask), true)));
            Schema::new(fields)
        };
        assert_eq!(pixel_bits(&with_mask(DataType::Int32), &masked), 64 + 32 + 32);
        assert_eq!(pixel_bits(&with_mask(DataType::Boolean), &masked), 64 + 32 + 1);
        masked.error = FluxError::Exact;
        assert_eq!(pixel_bits(&with_mask(DataType::UInt16), &masked), 64 + 16);
    }

    /// The schema with further columns, or those of the names given in another type.
    fn with(columns: Vec<Field>) -> Schema {
        let schema = schema(list(DataType::Float64), "flux_err");
        let is_other = |field: &&Arc<Field>| columns.iter().all(|column| column.name() != field.name());
        let mut fields: Vec<_> = schema.fields().iter().filter(is_other).cloned().collect();
        fields.extend(columns.into_iter().map(Arc::new));
        Schema::new(fields)
    }

    #[test]
    fn a_bit_that_the_mask_does_not_have_is_refused() {
        let check = |mask, bad_bits: &[u8]| {
            let mut masked = columns();
            masked.mask = Some(Mask {
                column: "mask".into(),
                bad_bits: bad_bits.to_vec(),
            });
            check_schema("/a", &with(vec![Field::new("mask", list(mask), true)]), &masked)
        };
        assert_eq!(
            check(DataType::Int32, &[3, 40]).unwrap_err().to_string(),
            "bad_bits names bit 40, and the mask column \"mask\" of /a is a list of int32, which has bits 0 to 31: name bits that \
             it has, or another column"
        );
        assert!(check(DataType::UInt8, &[8]).is_err());
        for (mask, bad_bits) in [
            (DataType::Int32, &[31][..]),
            (DataType::Int64, &[63]),
            (DataType::UInt8, &[7]),
            (DataType::Int16, &[]),
            (DataType::Boolean, &[40]),
        ] {
            check(mask, bad_bits).unwrap();
        }
    }

    /// As astropy writes masked columns: what they hold, and which of it is masked.
    #[test]
    fn a_column_that_another_masks_is_refused() {
        let of_pixels = |name: &str| Field::new(name, list(DataType::Boolean), true);
        let refused = |field: &Field, columns: &CatalogueColumns| {
            let group = Field::new("source", DataType::Int64, true);
            let covariance = Field::new("e_teff", list(DataType::Float64), true);
            let checked = check_schema("/a", &with(vec![group, covariance, field.clone()]), columns);
            checked.err().map(|error| error.to_string())
        };
        let said = refused(&Field::new("teff.mask", DataType::Boolean, true), &columns());
        assert_eq!(
            said.as_deref(),
            Some(
                "\"teff.mask\" of /a masks values of column \"teff\", as astropy writes it, and what stands there would count: write nulls in \
                 their place, as README.md, \"Your own data\", says"
            )
        );
        let mut all = columns();
        all.holdout_group = Some("source".into());
        all.label_errors = LabelErrors::Covariance("e_teff".into());
        for field in [
            Field::new("id.mask", DataType::Boolean, true),
            Field::new("source.mask", DataType::Boolean, true),
            of_pixels("e_teff.mask"),
        ] {
            let said = refused(&field, &all).unwrap();
            assert!(said.contains(field.name()) && said.contains(": write nulls"), "{said}");
            assert!(!said.contains("mask = "), "{said}");
        }
        // Of pixels the mask that is named decides.
        let mut named = columns();
        for name in ["flux.mask", "flux_err.mask"] {
            let said = refused(&of_pixels(name), &columns()).unwrap();
            let remedy = format!("says, or, where every object has that column, mask = \"{name}\"");
            assert!(said.contains(": write nulls") && said.ends_with(&remedy), "{said}");
            named.mask = Some(Mask {
                column: name.into(),
                bad_bits: Vec::new(),
            });
            assert_eq!(refused(&of_pixels(name), &named), None);
        }
        let both = with(vec![of_pixels("flux.mask"), of_pixels("flux_err.mask")]);
        check_schema("/a", &both, &named).unwrap();
        assert!(refused(&Field::new("teff.mask", DataType::Boolean, true), &named).is_some());
        // Of what is only kept, and of what is no mask, nothing is said.
        for field in [
            Field::new("snr.mask", DataType::Boolean, true),
            Field::new("teff.mask", DataType::Float64, true),
        ] {
            assert_eq!(refused(&field, &columns()), None, "{field}");
        }
    }

    #[test]
    fn a_column_of_another_type_comes_with_what_to_do() {
        let check = |field: Field, errors| {
            let mut columns = columns();
            columns.label_errors = errors;
            check_schema("/a", &with(vec![field]), &columns)
                .unwrap_err()
                .to_string()
        };
        let said = check(
            Field::new("e_teff", DataType::Float64, true),
            LabelErrors::Covariance("e_teff".into()),
        );
        assert!(said.contains("is double, expected a list of float or double"), "{said}");
        assert!(said.contains("label_errors = [\"e_teff\"]"), "{said}");
        let said = check(Field::new("id", DataType::Float64, true), LabelErrors::None);
        assert!(said.contains("table[\"id\"].astype(\"Int64\")"), "{said}");
        let said = check(Field::new("teff", DataType::Utf8, true), LabelErrors::None);
        assert!(said.contains("pandas.to_numeric(table[\"teff\"])"), "{said}");
    }

    #[test]
    fn missing_and_mistyped_columns_are_named() {
        assert!(check_schema("/a", &schema(list(DataType::Float64), "flux_err"), &columns()).is_ok());
        let error = check_schema("/a", &schema(list(DataType::Float64), "flux_error"), &columns());
        assert_eq!(
            error.unwrap_err().to_string(),
            "/a has no column \"flux_err\"; did you mean \"flux_error\"?"
        );
        let error = check_schema("/a", &schema(list(DataType::Utf8), "flux_err"), &columns());
        assert_eq!(
            error.unwrap_err().to_string(),
            "column \"flux\" of /a is a list of a string, expected a list of float or double"
        );
        let mut fields = schema(list(DataType::Float64), "flux_err").fields().to_vec();
        fields[0] = Arc::new(Field::new("id", DataType::Binary, false));
        let error = check_schema("/a", &Schema::new(fields), &columns());
        assert_eq!(
            error.unwrap_err().to_string(),
            "column \"id\" of /a is binary, expected a string or an integer: cast it to a string (astropy: \
             table.convert_bytestring_to_unicode())"
        );
    }
}
