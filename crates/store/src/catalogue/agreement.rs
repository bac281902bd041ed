//! What the objects of a catalogue agree on: the number of pixels and the types of columns that most of them have.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};

use crate::StoreError;
use crate::catalogue::object::Opened;
use crate::catalogue::schema::type_name;

/// What most objects have, of two as frequent the first by path, and the first object that has it.
pub(crate) struct Agreement {
    /// Pixels of a spectrum; `None` where no object says.
    n_pixels: Option<(usize, String)>,
    /// The identifier and the kept columns.
    columns: Vec<(FieldRef, String)>,
}

impl Agreement {
    /// Of objects by path; `None` where there is none.
    pub fn of(objects: &[&Opened]) -> Option<Self> {
        let path = |object: &Opened| object.version.path.clone();
        let first = objects.first()?;
        let counts = objects.iter().filter_map(|object| Some((object.n_pixels?, *object)));
        let n_pixels = most_frequent(counts, |one, other| one == other);
        let columns = first.row_schema.fields().iter().enumerate().map(|(at, of_first)| {
            let fields = objects.iter().filter_map(|object| {
                let field = object.row_schema.fields().get(at)?;
                (!is_untyped(field)).then_some((field, *object))
            });
            let field = most_frequent(fields, |one, other| is_same_type(one, other));
            let (field, by) = field.unwrap_or((of_first, *first));
            (Arc::clone(field), path(by))
        });
        Some(Self {
            n_pixels: n_pixels.map(|(n_pixels, by)| (n_pixels, path(by))),
            columns: columns.collect(),
        })
    }

    /// Pixels of a spectrum; `None` where no object says.
    pub fn n_pixels(&self) -> Option<usize> {
        self.n_pixels.as_ref().map(|(n_pixels, _)| *n_pixels)
    }

    /// The identifier and the kept columns.
    pub fn row_schema(&self) -> SchemaRef {
        let fields: Vec<FieldRef> = self.columns.iter().map(|(field, _)| Arc::clone(field)).collect();
        Arc::new(Schema::new(fields))
    }

    /// Checks that an object has what most have.
    ///
    /// # Errors
    /// It has another number of pixels, or a column of another type.
    pub fn check(&self, object: &Opened) -> Result<(), StoreError> {
        if let (Some(found), Some((expected, by))) = (object.n_pixels, &self.n_pixels)
            && found != *expected
        {
            return Err(StoreError::PixelCount {
                object: object.version.path.clone(),
                found,
                expected: *expected,
                expected_by: by.clone(),
            });
        }
        for (field, (expected, by)) in object.row_schema.fields().iter().zip(&self.columns) {
            if !is_untyped(field) && !is_same_type(field, expected) {
                return Err(StoreError::ColumnType {
                    object: object.version.path.clone(),
                    column: field.name().clone(),
                    found: type_name(field.data_type()),
                    expected: format!("{} as in {by}", type_name(expected.data_type())),
                });
            }
        }
        Ok(())
    }
}

/// Whether a column has no type, as pandas writes one of nothing but nulls: it can be of any.
fn is_untyped(field: &Field) -> bool {
    *field.data_type() == DataType::Null
}

/// What the elements of a list are called differs from writer to writer, and means nothing.
fn is_same_type(one: &Field, other: &Field) -> bool {
    one.data_type().equals_datatype(other.data_type())
}

/// What most objects have, of two as frequent the first, and the first object that has it.
fn most_frequent<'o, T>(
    found: impl Iterator<Item = (T, &'o Opened)>,
    is_same: impl Fn(&T, &T) -> bool,
) -> Option<(T, &'o Opened)> {
    let mut counted: Vec<(T, &Opened, usize)> = Vec::new();
    for (found, object) in found {
        match counted.iter_mut().find(|(known, ..)| is_same(known, &found)) {
            Some((.., count)) => *count += 1,
            None => counted.push((found, object, 1)),
        }
    }
    // Of equal ones `max_by_key` gives the last.
    let most = counted.into_iter().rev().max_by_key(|(.., count)| *count);
    most.map(|(found, object, _)| (found, object))
}

#[cfg(test)]
mod tests {
    use fisherflow_spectra::ObjectVersion;

    use super::*;

    fn object(path: &str, n_pixels: Option<usize>, column: DataType) -> Opened {
        Opened {
            version: ObjectVersion {
                path: path.to_owned(),
                size: 1,
                etag: None,
            },
            row_schema: Arc::new(Schema::new(vec![Field::new("abundances", column, true)])),
            pixel_bits: 32,
            row_groups: vec![1],
            row_group_bytes: 1,
            flux_values: vec![1],
            n_pixels,
        }
    }

    fn list(element: &str, of: DataType) -> DataType {
        DataType::List(Arc::new(Field::new(element, of, true)))
    }

    #[test]
    fn lists_are_of_one_type_whatever_their_elements_are_called() {
        let first = object("/a", None, list("element", DataType::Float32));
        let agreement = Agreement::of(&[&first]).unwrap();
        let check = |of| agreement.check(&object("/b", None, list("item", of)));
        check(DataType::Float32).unwrap();
        assert_eq!(
            check(DataType::Float64).unwrap_err().to_string(),
            "column \"abundances\" of /b is a list of double, expected a list of float as in /a"
        );
    }

    #[test]
    fn most_objects_decide_and_of_as_many_the_first() {
        let objects = [
            object("/a", Some(5), DataType::Null),
            object("/b", Some(3), DataType::Int64),
            object("/c", Some(3), DataType::Float32),
            object("/d", None, DataType::Float32),
        ];
        let of = |chosen: &[usize]| {
            let chosen: Vec<&Opened> = chosen.iter().map(|&at| &objects[at]).collect();
            Agreement::of(&chosen).unwrap()
        };
        let type_of = |agreement: &Agreement| agreement.row_schema().field(0).data_type().clone();
        let agreement = of(&[0, 1, 2, 3]);
        assert_eq!(agreement.n_pixels(), Some(3));
        assert_eq!(type_of(&agreement), DataType::Float32);
        let said = agreement.check(&objects[0]).unwrap_err().to_string();
        assert!(said.contains("/a have 5 pixels, those in /b have 3"), "{said}");
        let said = agreement.check(&objects[1]).unwrap_err().to_string();
        assert!(said.contains("/b is int64, expected float as in /c"), "{said}");
        agreement.check(&objects[3]).unwrap();

        let agreement = of(&[0, 1, 3]);
        assert_eq!(agreement.n_pixels(), Some(5));
        assert_eq!(type_of(&agreement), DataType::Int64);
        // What has no type has any.
        of(&[3]).check(&objects[0]).unwrap();
        assert_eq!(type_of(&of(&[0])), DataType::Null);
        assert_eq!(of(&[3]).n_pixels(), None);
    }
}
