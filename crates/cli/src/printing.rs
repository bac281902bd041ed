//! What a command prints on standard output: aligned facts and tables, of one screen.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

pub use fisherflow_store::in_words::{bytes, count, counted};
use serde::Serialize;

use crate::args::LogFormat;
use crate::logging::Terminal;

/// Lines to be printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    lines: Vec<String>,
}

/// Rows of cells; a column of numbers is set flush right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grid {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Page {
    /// An empty page.
    pub fn new() -> Self {
        Self::default()
    }

    /// One line.
    pub fn line(&mut self, text: impl Into<String>) -> &mut Self {
        self.lines.push(text.into());
        self
    }

    /// An empty line, except at the top.
    pub fn gap(&mut self) -> &mut Self {
        if !self.lines.is_empty() {
            self.lines.push(String::new());
        }
        self
    }

    /// Names and values, the values below each other.
    pub fn facts<N: AsRef<str>>(&mut self, facts: &[(N, String)]) -> &mut Self {
        let width = facts.iter().map(|(n, _)| n.as_ref().chars().count()).max().unwrap_or(0);
        for (name, value) in facts {
            self.line(format!("{:<width$}  {value}", name.as_ref()));
        }
        self
    }

    /// A table.
    pub fn grid(&mut self, grid: &Grid) -> &mut Self {
        self.lines.extend(grid.lines());
        self
    }

    /// Another page below.
    pub fn append(&mut self, below: Page) -> &mut Self {
        self.lines.extend(below.lines);
        self
    }

    /// Prints a value as JSON, for programs.
    ///
    /// # Errors
    /// As [`Page::print`].
    pub fn print_json(value: &impl Serialize) -> std::io::Result<()> {
        let said = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
        Self::new().line(said).print()
    }

    /// Says what was done, unless only warnings and errors are wanted: prints it or, where the log is JSON for programs, leaves it there as one
    /// line. It is done wherever that can or cannot be printed, so no scheduler need start it again.
    pub fn tell(&self, terminal: &Terminal) {
        match terminal.format {
            _ if !terminal.tells => {}
            LogFormat::Text => {
                if let Err(error) = self.print() {
                    tracing::warn!(%error, "all is done, and cannot be told on standard output: see to where that goes");
                }
            }
            LogFormat::Json => tracing::info!(page = %self, "what was done"),
        }
    }

    /// Prints the page; a reader that left, as `head` does, is no error.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(&self) -> std::io::Result<()> {
        let mut text = self.lines.join("\n");
        text.push('\n');
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }
}

impl Display for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl Grid {
    /// A table with these columns.
    pub fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|h| (*h).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// One more row.
    pub fn row(&mut self, cells: Vec<String>) -> &mut Self {
        self.rows.push(cells);
        self
    }

    fn lines(&self) -> Vec<String> {
        let columns = self.header.len();
        let all = || std::iter::once(&self.header).chain(&self.rows);
        let width = |c: usize| {
            all()
                .filter_map(|r| r.get(c))
                .map(|s| s.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let right: Vec<bool> = (0..columns)
            .map(|c| {
                let mut cells = self.rows.iter().filter_map(|r| r.get(c)).peekable();
                cells.peek().is_some() && cells.all(|s| is_number(s))
            })
            .collect();
        all()
            .map(|row| {
                let cells: Vec<String> = row
                    .iter()
                    .zip(widths.iter().zip(&right))
                    .map(|(cell, (w, right))| match right {
                        true => format!("{cell:>w$}"),
                        false => format!("{cell:<w$}"),
                    })
                    .collect();
                cells.join("  ").trim_end().to_owned()
            })
            .collect()
    }
}

/// Whether a cell is a number, with or without a unit, and is set flush right.
fn is_number(cell: &str) -> bool {
    let unsigned = cell.strip_prefix('-').unwrap_or(cell);
    unsigned.is_empty() || unsigned.starts_with(|c: char| c.is_ascii_digit())
}

/// `1.5 G`: floating-point operations with the SI's prefix.
pub fn flop(n: f64) -> String {
    const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let mut value = n;
    let mut prefix = 0;
    while value >= 1000.0 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    format!("{value:.1} {}", PREFIXES[prefix]).trim_end().to_owned()
}

/// Three digits, or all before the point where there are more: of rates.
pub fn three_digits(x: f64) -> f64 {
    if x.abs() >= 100.0 {
        return x.round();
    }
    format!("{x:.2e}").parse().unwrap_or(x)
}

/// `0.0123`, `4.5`, `17,629`: what is done in a second.
pub fn rate(x: f64) -> String {
    match three_digits(x) {
        whole if whole >= 1e3 => count(whole as u64),
        part => part.to_string(),
    }
}

/// Up to six digits, with an exponent where the number is very large or small.
pub fn number(x: f64) -> String {
    let magnitude = x.abs();
    if x == 0.0 || (1e-4..1e7).contains(&magnitude) {
        let decimals = if magnitude >= 1e3 { 1 } else { 6 };
        let fixed = format!("{x:.decimals$}");
        match fixed.contains('.') {
            true => fixed.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => fixed,
        }
    } else {
        format!("{x:.4e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_easily() {
        assert_eq!(flop(1.46e11), "146.0 G");
        assert_eq!(flop(12.0), "12.0");
        let rates = [0.0, 0.001_234_5, 4.5, 99.96, 123.4, 17_629.4].map(rate);
        assert_eq!(rates, ["0", "0.00123", "4.5", "100", "123", "17,629"]);
        assert_eq!(number(4700.0), "4700");
        assert_eq!(number(-0.25), "-0.25");
        assert_eq!(number(1.2e-9), "1.2000e-9");
    }

    #[test]
    fn columns_line_up() {
        let mut grid = Grid::new(&["layer", "weights"]);
        grid.row(vec!["layers.0".to_owned(), count(14_774_272)]);
        grid.row(vec!["l".to_owned(), count(99)]);
        let mut page = Page::new();
        page.gap()
            .facts(&[("a", "1".to_owned()), ("long", "2".to_owned())])
            .gap()
            .grid(&grid);
        assert_eq!(
            page.to_string(),
            "a     1\nlong  2\n\nlayer        weights\nlayers.0  14,774,272\nl                 99"
        );
    }
}
