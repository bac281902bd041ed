//! What stands in the parentheses of a layer's name: `4, stride=2`.

use crate::error::NetworkError;

/// The arguments of a layer, taken out one by one.
pub(crate) struct Arguments<'a> {
    /// The layer as it is written.
    layer: &'a str,
    left: Vec<Argument<'a>>,
}

struct Argument<'a> {
    key: Option<&'a str>,
    value: &'a str,
}

impl<'a> Arguments<'a> {
    /// A layer's kind and its arguments.
    ///
    /// # Errors
    /// Parentheses that are not closed, or an argument that is empty.
    pub fn split(layer: &'a str) -> Result<(&'a str, Self), NetworkError> {
        let trimmed = layer.trim();
        let mut arguments = Self {
            layer,
            left: Vec::new(),
        };
        let Some((kind, rest)) = trimmed.split_once('(') else {
            return Ok((trimmed, arguments));
        };
        let Some(inside) = rest.strip_suffix(')') else {
            return Err(arguments.refused("the parenthesis is not closed"));
        };
        for argument in inside.split(',') {
            let (key, value) = match argument.split_once('=') {
                Some((key, value)) => (Some(key.trim()), value.trim()),
                None => (None, argument.trim()),
            };
            if value.is_empty() {
                return Err(arguments.refused("an argument is empty"));
            }
            arguments.left.push(Argument { key, value });
        }
        Ok((kind.trim_end(), arguments))
    }

    /// The finite number without a key, where there is one.
    pub fn number(&mut self) -> Result<Option<f64>, NetworkError> {
        let Some(text) = self.take(None) else { return Ok(None) };
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.refused(format!("`{text}` is not a finite number"))),
        }
    }

    /// The whole number above 0 of a key (or without one), where it is given.
    pub fn count(&mut self, key: Option<&str>) -> Result<Option<usize>, NetworkError> {
        let Some(text) = self.take(key) else { return Ok(None) };
        match text.parse::<usize>() {
            Ok(count) if count > 0 => Ok(Some(count)),
            _ => Err(self.refused(format!("`{text}` is not a whole number above 0"))),
        }
    }

    /// The choice named by a key (or without one), where it is given.
    pub fn choice<T: Copy>(&mut self, key: Option<&str>, choices: [(&str, T); 2]) -> Result<Option<T>, NetworkError> {
        let Some(text) = self.take(key) else { return Ok(None) };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let [first, second] = choices.map(|(name, _)| name);
                Err(self.refused(format!("`{text}` is neither `{first}` nor `{second}`")))
            }
        }
    }

    /// Refuses what is left; `remedy` says what the layer takes.
    pub fn end(self, remedy: &str) -> Result<(), NetworkError> {
        match self.left.first() {
            None => Ok(()),
            Some(Argument { key: Some(key), value }) => Err(self.refused(format!("`{key}={value}`: {remedy}"))),
            Some(Argument { key: None, value }) => Err(self.refused(format!("`{value}`: {remedy}"))),
        }
    }

    /// The error that this layer's arguments make no sense.
    pub fn refused(&self, reason: impl Into<String>) -> NetworkError {
        NetworkError::LayerNumber {
            name: self.layer.to_owned(),
            reason: reason.into(),
        }
    }

    fn take(&mut self, key: Option<&str>) -> Option<&'a str> {
        let at = self.left.iter().position(|argument| argument.key == key)?;
        Some(self.left.remove(at).value)
    }
}
