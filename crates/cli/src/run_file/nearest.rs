//! What was probably meant by a name that is not known: another word for a known one, or one that is spelt like it.

use fisherflow_network::near_name;

use super::prior::REMEDY;

/// A table or key, and what others call what it has: (place, their words, ours).
const CALLED: &[(&str, &[&str], &str)] = &[
    ("", &["model", "net"], "network"),
    ("", &["data", "catalog", "spectra"], "catalogue"),
    ("network", &["std", "input_std", "scale"], "input_scale"),
    ("network", &["mean"], "input_mean"),
    ("network.labels", &["std"], "scale"),
    ("catalogue", ERRORS, "sigma"),
    ("predict", ERRORS, "sigma"),
    ("noise", &["holdout"], "holdout_fraction"),
    ("compute.device", &["gpu"], "cuda"),
];
const ERRORS: &[&str] = &[
    "err",
    "error",
    "errors",
    "uncertainty",
    "uncertainties",
    "flux_err",
    "flux_error",
];

/// What a training calls the factor of its penalty on the weights: no precision, but one follows from it.
const PENALTIES: &[&str] = &["weight_decay", "l2", "penalty"];

/// What the command line says: (keys, argument).
const ON_THE_COMMAND_LINE: &[(&str, &str)] = &[("workers", "-w"), ("overwrite", "--overwrite")];

/// What `place`, a table or a key, has for a word of others; `None` where it is none that is known.
pub fn called(place: &str, name: &str, known: &[&str], quoted: impl Fn(&str) -> String) -> Option<String> {
    let lower = name.to_lowercase();
    let (_, _, ours) = CALLED
        .iter()
        .find(|(of, names, ours)| *of == place && names.contains(&lower.as_str()) && known.contains(ours))?;
    Some(format!("it is called {} here", quoted(ours)))
}

/// What to do about a name that `place`, a table or a key, does not know; `None` where nothing is like it. `quoted` is a known name as a message has it.
pub fn meant(place: &str, name: &str, known: &[&str], quoted: impl Fn(&str) -> String) -> Option<String> {
    let lower = name.to_lowercase();
    if let Some(said) = called(place, name, known, &quoted) {
        return Some(said);
    }
    if place == "prior" && PENALTIES.contains(&lower.as_str()) {
        let precision = quoted("precision");
        return Some(format!("it is another number than {precision}; for that {REMEDY}"));
    }
    if let Some((_, argument)) = ON_THE_COMMAND_LINE.iter().find(|(key, _)| *key == lower) {
        return Some(format!("it is {argument} on the command line"));
    }
    near_name(name, known.iter().copied()).map(|near| format!("the nearest is {}", quoted(near)))
}

/// `a, b and c`, each in quotes, with `word` before the last.
pub fn listed(names: &[&str], quote: char, word: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("{quote}{n}{quote}")).collect();
    match quoted.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_and_other_spellings_are_told() {
        let known = ["sigma", "ivar", "mask", "uri"];
        let said = |name: &str| meant("catalogue", name, &known, |n| format!("`{n}`"));
        assert_eq!(said("sgima").unwrap(), "the nearest is `sigma`");
        assert_eq!(said("IVAR").unwrap(), "the nearest is `ivar`");
        assert_eq!(said("error").unwrap(), "it is called `sigma` here");
        assert_eq!(said("workers").unwrap(), "it is -w on the command line");
        assert_eq!(said("airmass"), None);
    }

    #[test]
    fn lists_read_aloud() {
        assert_eq!(listed(&["a"], '`', "and"), "`a`");
        assert_eq!(listed(&["a", "b", "c"], '`', "and"), "`a`, `b` and `c`");
        assert_eq!(listed(&["a", "b"], '"', "or"), "\"a\" or \"b\"");
    }
}
