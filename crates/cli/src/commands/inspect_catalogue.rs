//! A Parquet catalogue, or a table of an output: its objects, its columns, and its first rows.

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Schema};
use fisherflow_spectra::{CatalogueColumns, Mask};
use fisherflow_store::{Catalogue, OnBadObject, Stores, Table};

use crate::exit_code::CliError;
use crate::printing::{Grid, Page, bytes, count};

/// Rows shown.
const ROWS: usize = 3;
/// Characters of a value shown.
const WIDTH: usize = 26;

/// What the Parquet objects at `uri` are.
///
/// # Errors
/// Nothing is there, or it is not Parquet.
pub fn page(stores: &Stores, uri: &str) -> Result<Page, CliError> {
    let table = Table::open(stores, uri)?;
    let size: u64 = table.objects().iter().map(|object| object.size).sum();
    let mut page = Page::new();
    let written_by = table.metadata().0.get("fisherflow.run_id");
    let mut facts = vec![
        (if written_by.is_some() { "table" } else { "catalogue" }, uri.to_owned()),
        (
            "objects",
            format!("{}, {}", count(table.objects().len() as u64), bytes(size)),
        ),
        ("rows", count(table.n_rows())),
    ];
    facts.extend(written_by.map(|run| ("written by", format!("run {run}"))));
    let as_spectra = match written_by {
        Some(_) => None,
        None => guessed_columns(table.schema())
            .and_then(|columns| Catalogue::open(stores, uri, &columns, OnBadObject::Skip).ok()),
    };
    if let Some(catalogue) = &as_spectra {
        facts.push(("row groups", count(catalogue.shards().len() as u64)));
        facts.push((
            "pixels",
            format!("{} in {}", count(catalogue.n_pixels() as u64), catalogue.columns().flux),
        ));
    }
    page.facts(&facts);
    let first: Option<RecordBatch> = table.batches(None, ROWS)?.next().transpose()?;
    page.gap().grid(&columns(table.schema(), first.as_ref()));
    Ok(page)
}

/// A row a column, with its first values.
fn columns(schema: &Schema, first: Option<&RecordBatch>) -> Grid {
    let shown = first.map_or(0, |rows| rows.num_rows().min(ROWS));
    let rows: Vec<String> = (0..shown).map(|row| format!("row {row}")).collect();
    let header: Vec<&str> = ["column", "type"]
        .into_iter()
        .chain(rows.iter().map(String::as_str))
        .collect();
    let mut grid = Grid::new(&header);
    for (i, field) in schema.fields().iter().enumerate() {
        let mut cells = vec![field.name().clone(), type_name(field.data_type())];
        if let Some(rows) = first {
            let options = FormatOptions::default().with_null("null");
            // A type that has no text form is shown by its name alone.
            if let Ok(formatter) = ArrayFormatter::try_new(rows.column(i), &options) {
                let value = |row| shortened(&formatter.value(row).to_string());
                cells.extend((0..shown).map(value));
            }
        }
        grid.row(cells);
    }
    grid
}

/// The columns of spectra that the schema suggests: the first text or integer, and the first list of numbers, with its mask where astropy wrote
/// one; enough to count row groups and pixels.
fn guessed_columns(schema: &Schema) -> Option<CatalogueColumns> {
    let named = |wanted: fn(&DataType) -> bool| {
        let field = schema.fields().iter().find(|f| wanted(f.data_type()))?;
        Some(field.name().clone())
    };
    let id = named(|t| t.is_integer() || matches!(t, DataType::Utf8 | DataType::LargeUtf8))?;
    let flux = named(is_list_of_floats)?;
    let mask = schema.field_with_name(&format!("{flux}.mask")).ok();
    let mask = mask.filter(|field| element(field.data_type()) == Some(&DataType::Boolean));
    Some(CatalogueColumns {
        mask: mask.map(|field| Mask {
            column: field.name().clone(),
            bad_bits: Vec::new(),
        }),
        ..CatalogueColumns::new(id, flux)
    })
}

/// Whether a column holds lists of floating-point numbers.
fn is_list_of_floats(data_type: &DataType) -> bool {
    element(data_type).is_some_and(DataType::is_floating)
}

/// The type of a list's elements.
fn element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            Some(field.data_type())
        }
        _ => None,
    }
}

/// A type as Parquet's readers call it.
fn type_name(data_type: &DataType) -> String {
    if let Some(element) = element(data_type) {
        return format!("list<{}>", type_name(element));
    }
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

/// The beginning of a value.
fn shortened(value: &str) -> String {
    if value.chars().count() <= WIDTH {
        return value.to_owned();
    }
    let beginning: String = value.chars().take(WIDTH - 3).collect();
    format!("{beginning}...")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::Field;

    use super::*;

    #[test]
    fn columns_of_spectra_are_guessed_by_type() {
        let list = |t| DataType::List(Arc::new(Field::new("element", t, true)));
        let mut fields = vec![
            Field::new("teff", DataType::Float64, true),
            Field::new("mask", list(DataType::Int64), true),
            Field::new("name", DataType::Utf8, false),
            Field::new("spectrum", list(DataType::Float32), true),
        ];
        let schema = Schema::new(fields.clone());
        let columns = guessed_columns(&schema).unwrap();
        assert_eq!((columns.id.as_str(), columns.flux.as_str()), ("name", "spectrum"));
        assert_eq!(columns.mask, None);
        fields.push(Field::new("spectrum.mask", list(DataType::Boolean), true));
        let masked = guessed_columns(&Schema::new(fields)).unwrap();
        assert_eq!(masked.mask.unwrap().column, "spectrum.mask");
        assert_eq!(type_name(schema.field(3).data_type()), "list<float>");
        assert!(guessed_columns(&Schema::empty()).is_none());
    }

    #[test]
    fn long_values_are_shortened() {
        assert_eq!(shortened("[1.0]"), "[1.0]");
        assert_eq!(shortened(&"1".repeat(100)).len(), WIDTH);
    }
}
