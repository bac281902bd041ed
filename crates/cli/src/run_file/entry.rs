//! One value of a TOML table, read as what its key takes, or refused with file, line, what is expected and what was found.

use toml::de::DeValue;

use super::error::{At, RunFileError};
use super::nearest::{listed, meant};
use super::table::Source;

/// One key and its value, or one element of an array.
pub struct Entry<'d> {
    pub(super) source: &'d Source,
    pub(super) key: String,
    pub(super) at: At,
    pub(super) value: &'d DeValue<'d>,
}

impl<'d> Entry<'d> {
    /// A string that is not empty.
    ///
    /// # Errors
    /// Any other value.
    pub fn string(&self) -> Result<String, RunFileError> {
        match self.value {
            DeValue::String(s) if !s.trim().is_empty() => Ok(s.to_string()),
            DeValue::String(_) => Err(self.invalid("is empty")),
            _ => Err(self.wrong_type("a string")),
        }
    }

    /// Whether it is a table.
    pub fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// A string, empty or not.
    ///
    /// # Errors
    /// Any other value.
    pub fn text(&self) -> Result<String, RunFileError> {
        match self.value {
            DeValue::String(s) => Ok(s.to_string()),
            _ => Err(self.wrong_type("a string")),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// Any other value.
    pub fn boolean(&self) -> Result<bool, RunFileError> {
        match self.value {
            DeValue::Boolean(b) => Ok(*b),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    /// A finite number; integers count.
    ///
    /// # Errors
    /// Any other value.
    pub fn number(&self) -> Result<f64, RunFileError> {
        let text = match self.value {
            DeValue::Float(f) => f.as_str(),
            DeValue::Integer(i) if i.radix() == 10 => i.as_str(),
            _ => return Err(self.wrong_type("a number")),
        };
        match text.parse::<f64>() {
            Ok(x) if x.is_finite() => Ok(x),
            _ => Err(self.invalid(format!("is {text}, expected a finite number"))),
        }
    }

    /// An integer of at least `least`.
    ///
    /// # Errors
    /// Any other value.
    pub fn integer(&self, least: u64) -> Result<u64, RunFileError> {
        let DeValue::Integer(i) = self.value else {
            return Err(self.wrong_type("an integer"));
        };
        match u64::from_str_radix(i.as_str(), i.radix()) {
            Ok(n) if n >= least => Ok(n),
            _ => Err(self.invalid(format!("is {i}, expected an integer of at least {least}"))),
        }
    }

    /// An integer of at least `least` that counts things in memory.
    ///
    /// # Errors
    /// Any other value.
    pub fn count(&self, least: u64) -> Result<usize, RunFileError> {
        let n = self.integer(least)?;
        usize::try_from(n).map_err(|_| self.invalid(format!("is {n}, more than this machine can count")))
    }

    /// A number of bytes, at least `least`: an integer, or one with a unit, as in "8 GiB" or "500 MB".
    ///
    /// # Errors
    /// Any other value.
    pub fn bytes(&self, least: u64) -> Result<u64, RunFileError> {
        const UNITS: [(&str, u64); 9] = [
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
            ("kB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
            ("TB", 1_000_000_000_000),
            ("B", 1),
        ];
        if !self.is_string() {
            return self.integer(least);
        }
        let said = self.string()?;
        let found = UNITS.iter().find_map(|(unit, bytes)| {
            let number: f64 = said.trim().strip_suffix(unit)?.trim().parse().ok()?;
            Some(number * *bytes as f64)
        });
        match found {
            Some(bytes) if (least as f64..9e18).contains(&bytes) => Ok(bytes as u64),
            _ => Err(self.invalid(format!(
                "is \"{said}\", expected bytes with a unit, as in \"8 GiB\" or \"500 MB\""
            ))),
        }
    }

    /// The elements of an array, each with its own line; `of` says what an array of what is expected.
    ///
    /// # Errors
    /// Any other value.
    pub fn array(&self, of: &str) -> Result<Vec<Entry<'d>>, RunFileError> {
        let DeValue::Array(elements) = self.value else {
            return Err(self.wrong_type(of));
        };
        Ok(elements
            .iter()
            .enumerate()
            .map(|(i, v)| Entry {
                source: self.source,
                key: format!("{}[{i}]", self.key),
                at: self.source.at(v.span().start),
                value: v.get_ref(),
            })
            .collect())
    }

    /// An array of strings, none empty.
    ///
    /// # Errors
    /// Any other value.
    pub fn strings(&self) -> Result<Vec<String>, RunFileError> {
        self.array("an array of strings")?.iter().map(Entry::string).collect()
    }

    /// An array of different strings, none empty.
    ///
    /// # Errors
    /// Any other value.
    pub fn distinct_strings(&self) -> Result<Vec<String>, RunFileError> {
        let names = self.strings()?;
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                return Err(self.invalid(format!("names `{name}` twice")));
            }
        }
        Ok(names)
    }

    /// An array of finite numbers.
    ///
    /// # Errors
    /// Any other value.
    pub fn numbers(&self) -> Result<Vec<f64>, RunFileError> {
        self.array("an array of numbers")?.iter().map(Entry::number).collect()
    }

    /// Whether the value is a string.
    pub fn is_string(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    /// Whether the value is an array.
    pub fn is_array(&self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    /// Whether the value is `true` or `false`.
    pub fn is_boolean(&self) -> bool {
        matches!(self.value, DeValue::Boolean(_))
    }

    /// One of the `supported` names; the names in `later` are in the contract but not yet in this version.
    ///
    /// # Errors
    /// [`RunFileError::Unsupported`] for a name in `later`, [`RunFileError::Invalid`] for any other, with what was probably meant.
    pub fn choice<T: Copy>(&self, supported: &[(&str, T)], later: &[&str]) -> Result<T, RunFileError> {
        let said = self.string()?;
        if let Some((_, value)) = supported.iter().find(|(name, _)| *name == said) {
            return Ok(*value);
        }
        let names: Vec<&str> = supported.iter().map(|(name, _)| *name).collect();
        if later.contains(&said.as_str()) {
            return Err(self.unsupported(format!("\"{said}\""), format!("use {}", listed(&names, '"', "or"))));
        }
        let near = meant(&self.key, &said, &names, |name| format!("\"{name}\"")).map(|near| format!("; {near}"));
        Err(self.invalid(format!(
            "is \"{said}\", expected {}{}",
            listed(&names, '"', "or"),
            near.unwrap_or_default()
        )))
    }

    /// The error for a value of another type.
    pub fn wrong_type(&self, expected: &str) -> RunFileError {
        RunFileError::WrongType {
            at: self.at.clone(),
            key: self.key.clone(),
            expected: expected.to_owned(),
            found: found(self.value),
        }
    }

    /// The error for a value that makes no sense.
    pub fn invalid(&self, problem: impl Into<String>) -> RunFileError {
        RunFileError::Invalid {
            at: self.at.clone(),
            key: self.key.clone(),
            problem: problem.into(),
        }
    }

    /// The error for a value that a later version will take.
    pub fn unsupported(&self, said: impl Into<String>, supported: impl Into<String>) -> RunFileError {
        RunFileError::Unsupported {
            at: self.at.clone(),
            key: self.key.clone(),
            said: said.into(),
            supported: supported.into(),
        }
    }
}

/// A value as an error names it: its type, and the value itself where it is short.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) if s.len() <= 40 => format!("the string \"{s}\""),
        DeValue::String(_) => "a long string".to_owned(),
        DeValue::Integer(i) => format!("the integer {i}"),
        DeValue::Float(f) => format!("the number {f}"),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(a) => format!("an array of {}", a.iter().count()),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
