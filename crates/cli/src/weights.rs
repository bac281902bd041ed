//! Which weights of a layer are meant: `0:10,99`, or `2/0:5,2/bias`.
//!
//! A layer's weights are `[W | b]`, `[out, in + 1]`, counted row by row from 0 with the bias last: index = out * (in + 1) + in; without a
//! bias `W`, `[out, in]`: index = out * in + in. A choice is
//! a list, in its order, of indices and ranges `from:to` (`to` not included, either end may be left out, `*` is all), or of `OUT/IN`
//! where both are one of those and IN may be `bias`.

use std::str::FromStr;

use fisherflow_network::DenseShape;

/// A choice of weights, not yet of a certain layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    said: String,
    items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Index(Span),
    Between { output: Span, input: Input },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Input {
    Some(Span),
    Bias,
}

/// Numbers `from..to`; without `to`: as many as there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: usize,
    to: Option<usize>,
}

/// The place of a weight in its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightPlace<'a> {
    /// The layer's name.
    pub layer: &'a str,
    /// The layer's output that it leads to.
    pub output: usize,
    /// The layer's input that it comes from; `None` for the bias.
    pub input: Option<usize>,
}

impl FromStr for Weights {
    type Err = String;

    fn from_str(said: &str) -> Result<Self, String> {
        let items: Result<_, String> = said.split(',').map(|item| Item::parse(item.trim())).collect();
        Ok(Self {
            said: said.to_owned(),
            items: items?,
        })
    }
}

impl std::fmt::Display for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.said)
    }
}

impl Item {
    fn parse(item: &str) -> Result<Self, String> {
        Ok(match item.split_once('/') {
            None => Self::Index(Span::parse(item)?),
            Some((output, input)) => Self::Between {
                output: Span::parse(output)?,
                input: match input {
                    "bias" => Input::Bias,
                    _ => Input::Some(Span::parse(input)?),
                },
            },
        })
    }
}

impl Span {
    fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let parsed = text.parse::<usize>();
            parsed.map_err(|_| format!("{text:?} is no index: expected 7, 0:10, *, or OUT/IN as 2/0:5 or 2/bias"))
        };
        if text == "*" {
            return Ok(Self { from: 0, to: None });
        }
        Ok(match text.split_once(':') {
            None => {
                let from = number(text)?;
                Self {
                    from,
                    to: Some(from + 1),
                }
            }
            Some((from, to)) => Self {
                from: if from.is_empty() { 0 } else { number(from)? },
                to: if to.is_empty() { None } else { Some(number(to)?) },
            },
        })
    }

    fn of(self, n: usize, what: &str) -> Result<std::ops::Range<usize>, String> {
        let to = self.to.unwrap_or(n);
        if to > n {
            return Err(format!("there is no {what} {}, there are {n}, counted from 0", to - 1));
        }
        if self.from >= to {
            return Err(format!("{}:{to} of the {what}s is none", self.from));
        }
        Ok(self.from..to)
    }
}

impl Weights {
    /// Their indices in the weights of `layers`, one after the other.
    ///
    /// # Errors
    /// There is no such weight, or outputs and inputs are named of several layers.
    pub fn indices(&self, layers: &[DenseShape]) -> Result<Vec<usize>, String> {
        let mut indices = Vec::new();
        for item in &self.items {
            item.add(layers, &mut indices).map_err(|problem| {
                let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
                format!("{} of {}: {problem}", self.said, names.join("+"))
            })?;
        }
        Ok(indices)
    }
}

impl Item {
    fn add(&self, layers: &[DenseShape], indices: &mut Vec<usize>) -> Result<(), String> {
        match self {
            Self::Index(span) => {
                let n = layers.iter().map(DenseShape::n_weights).sum();
                indices.extend(span.of(n, "weight")?);
            }
            Self::Between { output, input } => {
                let [layer] = layers else {
                    return Err("outputs and inputs can be named of one layer alone".to_owned());
                };
                for output in output.of(layer.outputs, "output")? {
                    let first = output * layer.columns();
                    match input {
                        Input::Bias if !layer.bias => return Err("the layer has no bias".to_owned()),
                        Input::Bias => indices.push(first + layer.inputs),
                        Input::Some(span) => indices.extend(span.of(layer.inputs, "input")?.map(|input| first + input)),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Where weight `index` of `layers`, one after the other, is; `None` beyond the last.
pub fn place_of(mut index: usize, layers: &[DenseShape]) -> Option<WeightPlace<'_>> {
    for layer in layers {
        if index < layer.n_weights() {
            let (output, input) = (index / layer.columns(), index % layer.columns());
            return Some(WeightPlace {
                layer: &layer.name,
                output,
                input: (input < layer.inputs).then_some(input),
            });
        }
        index -= layer.n_weights();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Vec<DenseShape> {
        [("layers.0", 3, 2), ("layers.2", 2, 4)]
            .map(|(name, inputs, outputs)| DenseShape {
                name: name.to_owned(),
                inputs,
                outputs,
                bias: true,
                shared: 1,
            })
            .to_vec()
    }

    fn indices(said: &str, layers: &[DenseShape]) -> Result<Vec<usize>, String> {
        said.parse::<Weights>()?.indices(layers)
    }

    #[test]
    fn lists_ranges_and_places() {
        let layers = layers();
        let one = &layers[..1];
        for (said, expected) in [
            ("5", vec![5]),
            ("0:3,7, 2", vec![0, 1, 2, 7, 2]),
            ("6:", vec![6, 7]),
            (":2", vec![0, 1]),
            ("*", (0..8).collect()),
            ("1/0", vec![4]),
            ("1/bias,0/1:", vec![7, 1, 2]),
            ("*/bias", vec![3, 7]),
            ("*/*", vec![0, 1, 2, 4, 5, 6]),
        ] {
            assert_eq!(indices(said, one), Ok(expected), "{said}");
        }
        assert_eq!(indices("8,19", &layers), Ok(vec![8, 19]));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let layers = layers();
        for (said, problem) in [
            ("8", "8 of layers.0: there is no weight 8, there are 8, counted from 0"),
            ("0:9", "no weight 8"),
            ("2/0", "no output 2"),
            ("0/3", "no input 3"),
            ("3:3", "none"),
            ("x", "\"x\" is no index"),
            ("-1", "\"-1\" is no index"),
            ("1/", "\"\" is no index"),
            ("0:99999999999999999999999", "no index"),
        ] {
            let error = indices(said, &layers[..1]).unwrap_err();
            assert!(error.contains(problem), "{said}: {error}");
        }
        assert!(indices("0/0", &layers).unwrap_err().contains("one layer alone"));
    }

    #[test]
    fn a_layer_without_bias_has_none_to_name() {
        let mut layers = layers();
        layers[0].bias = false;
        assert_eq!(indices("1/0:", &layers[..1]), Ok(vec![3, 4, 5]));
        let error = indices("1/bias", &layers[..1]).unwrap_err();
        assert!(error.contains("the layer has no bias"), "{error}");
        assert!(indices("6", &layers[..1]).unwrap_err().contains("no weight 6"));
        let place = |index| place_of(index, &layers).map(|p| (p.layer, p.output, p.input));
        assert_eq!(place(5), Some(("layers.0", 1, Some(2))));
        assert_eq!(place(6), Some(("layers.2", 0, Some(0))));
        assert_eq!(place(8), Some(("layers.2", 0, None)));
    }

    #[test]
    fn indices_have_places() {
        let layers = layers();
        let place = |index| place_of(index, &layers).map(|p| (p.layer, p.output, p.input));
        assert_eq!(place(7), Some(("layers.0", 1, None)));
        assert_eq!(place(8), Some(("layers.2", 0, Some(0))));
        assert_eq!(place(19), Some(("layers.2", 3, None)));
        assert_eq!(place(20), None);
    }
}
