//! What a query of an inverse answers, in the form that was asked for: a table, JSON, or a file.

use std::fmt::{self, Write};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use fisherflow_network::DenseShape;
use fisherflow_store::{FileMetadata, Stores, to_npy, write_table};
use serde_json::json;

use crate::exit_code::CliError;
use crate::printing::{Grid, Page, count};
use crate::weights::place_of;

/// Values of a vector or elements of a matrix that are printed, at most.
const PRINTED: usize = 400;
/// Columns of a matrix that are printed, at most.
const PRINTED_COLUMNS: usize = 10;
/// Elements of a matrix that are computed, at most: they are in memory at once.
const ELEMENTS: usize = 100_000_000;
/// Rows of a Parquet batch.
const BATCH_ROWS: usize = 1 << 20;

/// What was asked for.
pub enum Answer {
    /// Elements, `[rows, cols]`.
    Elements {
        /// Indices of the weights.
        rows: Vec<usize>,
        /// Likewise.
        cols: Vec<usize>,
        /// Row after row.
        values: Vec<f64>,
    },
    /// One value a weight.
    Vector(Vec<f64>),
    /// One number.
    Number(f64),
}

/// How large an answer is, which is known before it is computed.
#[derive(Clone, Copy, Debug)]
pub enum Size {
    /// Elements of so many rows and columns.
    Elements(usize, usize),
    /// So many values.
    Vector(usize),
    /// One number.
    Number,
}

/// A file for an answer.
#[derive(Debug)]
pub struct AnswerFile<'u> {
    /// Where.
    pub uri: &'u str,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Parquet,
    Npy,
    Csv,
}

impl<'u> AnswerFile<'u> {
    /// The file at a URI, whose form its name says.
    ///
    /// # Errors
    /// The name ends in no known form.
    pub fn named(uri: &'u str) -> Result<Self, CliError> {
        let form = match uri.rsplit_once('.').map(|(_, ending)| ending.to_lowercase()).as_deref() {
            Some("parquet") => Form::Parquet,
            Some("npy") => Form::Npy,
            Some("csv") => Form::Csv,
            _ => {
                return Err(CliError::Arguments(format!(
                    "--out {uri}: its name must end in .parquet, .npy or .csv"
                )));
            }
        };
        Ok(Self { uri, form })
    }
}

impl Size {
    /// Refuses more elements than a process may be asked for.
    ///
    /// # Errors
    /// There are more.
    pub fn check_memory(self) -> Result<(), CliError> {
        match self {
            Self::Elements(rows, cols) if rows.saturating_mul(cols) > ELEMENTS => Err(CliError::Arguments(format!(
                "{self} are too many at once, at most {}: ask for some of the --rows and --cols at a time",
                count(ELEMENTS as u64)
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses what cannot be read on a screen.
    ///
    /// # Errors
    /// It is too large.
    pub fn check_screen(self) -> Result<(), CliError> {
        let (values, columns) = match self {
            Self::Elements(rows, cols) => (rows.saturating_mul(cols), cols),
            Self::Vector(n) => (n, 1),
            Self::Number => (1, 1),
        };
        if values > PRINTED || columns > PRINTED_COLUMNS {
            return Err(CliError::Arguments(format!(
                "{self} do not fit on a screen: name a file, as --out inverse.parquet (or .npy, .csv), or ask for --json"
            )));
        }
        Ok(())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elements(rows, cols) => write!(f, "{rows} x {cols} elements"),
            Self::Vector(n) => write!(f, "{n} values"),
            Self::Number => f.write_str("one number"),
        }
    }
}

impl Answer {
    /// Adds it to a page that [`Size::check_screen`] lets it stand on.
    pub fn print_to(&self, page: &mut Page, layers: &[DenseShape]) {
        match self {
            Self::Number(value) => page.line(format!("{value:e}")),
            _ => page.grid(&self.grid(layers)),
        };
    }

    fn grid(&self, layers: &[DenseShape]) -> Grid {
        let several = layers.len() > 1;
        let weight = |index: usize| {
            place_of(index, layers).map_or(String::new(), |place| {
                let input = place.input.map_or("bias".to_owned(), |input| input.to_string());
                let layer = if several {
                    format!("{} ", place.layer)
                } else {
                    String::new()
                };
                format!("{layer}{}/{input}", place.output)
            })
        };
        let number = |value: &f64| format!("{value:.8e}");
        let mut header = vec!["weight".to_owned(), "out/in".to_owned()];
        match self {
            Self::Elements { rows, cols, values } => {
                header.extend(cols.iter().map(ToString::to_string));
                let mut grid = Grid::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
                for (row, values) in rows.iter().zip(values.chunks_exact(cols.len())) {
                    let mut cells = vec![row.to_string(), weight(*row)];
                    cells.extend(values.iter().map(number));
                    grid.row(cells);
                }
                grid
            }
            Self::Vector(values) => {
                let mut grid = Grid::new(&["weight", "out/in", "value"]);
                for (at, value) in values.iter().enumerate() {
                    grid.row(vec![at.to_string(), weight(at), number(value)]);
                }
                grid
            }
            Self::Number(_) => Grid::default(),
        }
    }

    /// As JSON: `values` (with `rows` and `cols` where they were chosen), or `value`.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Self::Elements { rows, cols, values } => {
                let matrix: Vec<&[f64]> = values.chunks(cols.len().max(1)).collect();
                json!({ "rows": rows, "cols": cols, "values": matrix })
            }
            Self::Vector(values) => json!({ "values": values }),
            Self::Number(value) => json!({ "value": value }),
        }
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// A file is there that may not be overwritten, or the store does not take it.
    pub fn write(
        &self,
        stores: &Stores,
        file: &AnswerFile<'_>,
        overwrite: bool,
        layers: &[DenseShape],
        metadata: &FileMetadata,
    ) -> Result<(), CliError> {
        let uri = file.uri;
        match file.form {
            Form::Parquet => {
                stores.check_new(uri, overwrite)?;
                write_table(stores, uri, self.batches(layers), metadata)?;
            }
            Form::Npy => stores.write_new(uri, self.npy(), overwrite)?,
            Form::Csv => stores.write_new(uri, self.csv(layers).into_bytes(), overwrite)?,
        }
        Ok(())
    }

    fn npy(&self) -> Vec<u8> {
        match self {
            Self::Elements { rows, cols, values } => to_npy(&[rows.len(), cols.len()], values),
            Self::Vector(values) => to_npy(&[values.len()], values),
            Self::Number(value) => to_npy(&[1], &[*value]),
        }
    }

    /// Number of rows of the table.
    fn n_rows(&self) -> usize {
        match self {
            Self::Elements { values, .. } | Self::Vector(values) => values.len(),
            Self::Number(_) => 1,
        }
    }

    fn batches<'a>(&'a self, layers: &'a [DenseShape]) -> impl Iterator<Item = RecordBatch> + 'a {
        let starts = (0..self.n_rows()).step_by(BATCH_ROWS);
        starts.filter_map(|start| self.batch(start..(start + BATCH_ROWS).min(self.n_rows()), layers))
    }

    /// Some rows of the table; `None` is never: the columns are of one length.
    fn batch(&self, range: std::ops::Range<usize>, layers: &[DenseShape]) -> Option<RecordBatch> {
        let numbers = |values: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(values.to_vec())) };
        let whole = |of: &dyn Fn(usize) -> Option<usize>| -> ArrayRef {
            let values = range.clone().map(|at| of(at).map(|n| n as i64));
            Arc::new(values.collect::<Int64Array>())
        };
        let place = |at: usize| place_of(at, layers);
        let columns: Vec<(&str, ArrayRef, bool)> = match self {
            Self::Elements { rows, cols, values } => vec![
                ("row", whole(&|at| Some(rows[at / cols.len()])), false),
                ("col", whole(&|at| Some(cols[at % cols.len()])), false),
                ("value", numbers(&values[range.clone()]), false),
            ],
            Self::Vector(values) => {
                let layer = range.clone().map(|at| place(at).map(|place| place.layer));
                vec![
                    ("weight", whole(&Some), false),
                    ("layer", Arc::new(layer.collect::<StringArray>()), false),
                    ("out_index", whole(&|at| place(at).map(|p| p.output)), false),
                    ("in_index", whole(&|at| place(at).and_then(|p| p.input)), true),
                    ("value", numbers(&values[range.clone()]), false),
                ]
            }
            Self::Number(value) => vec![("value", numbers(&[*value]), false)],
        };
        RecordBatch::try_from_iter_with_nullable(columns).ok()
    }

    fn csv(&self, layers: &[DenseShape]) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let mut line = |cells: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "{cells}");
        };
        match self {
            Self::Elements { rows, cols, values } => {
                line(format_args!("row,col,value"));
                for (at, value) in values.iter().enumerate() {
                    line(format_args!(
                        "{},{},{value:e}",
                        rows[at / cols.len()],
                        cols[at % cols.len()]
                    ));
                }
            }
            Self::Vector(values) => {
                line(format_args!("weight,layer,out_index,in_index,value"));
                for (at, value) in values.iter().enumerate() {
                    if let Some(place) = place_of(at, layers) {
                        let input = place.input.map_or(String::new(), |input| input.to_string());
                        line(format_args!("{at},{},{},{input},{value:e}", place.layer, place.output));
                    }
                }
            }
            Self::Number(value) => line(format_args!("value\n{value:e}")),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Vec<DenseShape> {
        vec![DenseShape {
            name: "layers.0".to_owned(),
            inputs: 2,
            outputs: 1,
            bias: true,
            shared: 1,
        }]
    }

    #[test]
    fn forms_of_a_small_answer() {
        let elements = Answer::Elements {
            rows: vec![0, 2],
            cols: vec![2],
            values: vec![0.5, -1.25],
        };
        let mut page = Page::new();
        elements.print_to(&mut page, &layers());
        assert_eq!(
            page.to_string(),
            "weight  out/in              2\n     0     0/0  5.00000000e-1\n     2  0/bias  -1.25000000e0"
        );
        assert_eq!(elements.csv(&layers()), "row,col,value\n0,2,5e-1\n2,2,-1.25e0\n");
        assert_eq!(
            elements.json(),
            json!({ "rows": [0, 2], "cols": [2], "values": [[0.5], [-1.25]] })
        );
        let batches: Vec<RecordBatch> = elements.batches(&layers()).collect();
        assert_eq!((batches.len(), batches[0].num_rows()), (1, 2));
        let vector = Answer::Vector(vec![1.0, 2.0, 3.0]);
        assert!(vector.csv(&layers()).ends_with("2,layers.0,0,,3e0\n"));
        assert_eq!(vector.batches(&layers()).next().unwrap().num_columns(), 5);
    }

    #[test]
    fn a_large_answer_goes_to_a_file() {
        for (small, large) in [
            (Size::Vector(PRINTED), Size::Vector(PRINTED + 1)),
            (Size::Elements(40, 10), Size::Elements(41, 10)),
            (Size::Elements(1, 10), Size::Elements(1, 11)),
        ] {
            small.check_screen().unwrap();
            let error = large.check_screen().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("--out"), "{error}");
            large.check_memory().unwrap();
        }
        Size::Number.check_screen().unwrap();
    }

    #[test]
    fn more_elements_than_a_process_holds_are_refused() {
        Size::Elements(10_000, 10_000).check_memory().unwrap();
        for (rows, cols) in [(10_000, 10_001), (usize::MAX, 2)] {
            let error = Size::Elements(rows, cols).check_memory().unwrap_err();
            let said = format!("{rows} x {cols} elements are too many at once, at most 100,000,000");
            assert!(error.to_string().contains(&said), "{error}");
        }
        // A layer's diagonal is no larger than the layer.
        Size::Vector(ELEMENTS + 1).check_memory().unwrap();
    }
}
