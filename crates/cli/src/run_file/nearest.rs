//! The known name nearest to one that is not known.

/// The nearest of `known` by edit distance (a swap of neighbours counts once), the first of equals; `None` where there is nothing to choose from.
pub fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    let name = name.to_lowercase();
    known
        .iter()
        .copied()
        .min_by_key(|candidate| strsim::damerau_levenshtein(&name, candidate))
}

/// `a, b and c`, each in backquotes.
pub fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    match quoted.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swaps_and_case_are_near() {
        let known = ["sigma", "ivar", "mask"];
        assert_eq!(nearest("sgima", &known), Some("sigma"));
        assert_eq!(nearest("IVAR", &known), Some("ivar"));
        assert_eq!(nearest("x", &[]), None);
    }

    #[test]
    fn lists_read_aloud() {
        assert_eq!(listed(&["a"]), "`a`");
        assert_eq!(listed(&["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
