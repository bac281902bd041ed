//! Which known name was probably meant, if any was.

/// Names that a message lists, at most.
const LISTED: usize = 20;

/// The candidate that was probably meant: at an edit distance (a swap of neighbours counts once, case does not) of a third of `name`'s length at
/// most, or one, or the one beginning with all of the other. The nearest of these, the first of equals.
///
/// ```
/// use fisherflow_network::near_name;
/// assert_eq!(near_name("sgima", ["ivar", "sigma"]), Some("sigma"));
/// assert_eq!(near_name("error", ["uri", "id"]), None);
/// ```
pub fn near_name<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let most = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = candidate.to_lowercase();
            let distance = strsim::damerau_levenshtein(&name, &other);
            let is_part =
                !name.is_empty() && !other.is_empty() && (name.starts_with(&other) || other.starts_with(&name));
            (distance <= most || is_part).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What a message says of a name that is not known: the one that was probably meant, or else which there are.
///
/// ```
/// use fisherflow_network::nearest_name;
/// assert_eq!(nearest_name("layer.4", ["layers.2", "layers.4"]), "the nearest is `layers.4`");
/// assert_eq!(nearest_name("head", ["fc1", "fc2"]), "there are `fc1` and `fc2`");
/// ```
pub fn nearest_name<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(near) = near_name(name, candidates.iter().copied()) {
        return format!("the nearest is `{near}`");
    }
    let mut listed: Vec<String> = candidates
        .iter()
        .take(LISTED)
        .map(|known| format!("`{known}`"))
        .collect();
    if candidates.len() > LISTED {
        listed.push(format!("{} more", candidates.len() - LISTED));
    }
    match listed.split_last() {
        None => "there are none".to_owned(),
        Some((only, [])) => format!("there is {only}"),
        Some((last, rest)) => format!("there are {} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_proposed() {
        for (name, near) in [
            ("sgima", Some("sigma")),
            ("IVAR", Some("ivar")),
            ("errors", None),
            ("holdout", Some("holdout_fraction")),
            ("model", None),
            ("", None),
        ] {
            assert_eq!(
                near_name(name, ["uri", "sigma", "ivar", "holdout_fraction", "noise"]),
                near,
                "{name}"
            );
        }
        assert_eq!(near_name("ivars", ["iva", "ivar"]), Some("ivar"));
        assert_eq!(near_name("x", []), None);
    }

    #[test]
    fn what_is_far_gets_a_list() {
        assert_eq!(nearest_name("x", []), "there are none");
        assert_eq!(nearest_name("head", ["fc1"]), "there is `fc1`");
        let many: Vec<String> = (0..25).map(|i| format!("layer.{i}")).collect();
        let said = nearest_name("q", many.iter().map(String::as_str));
        assert!(said.ends_with("`layer.19` and 5 more"), "{said}");
    }
}
