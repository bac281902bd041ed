//! The name that was probably meant by one that is not there.

/// The candidate that was probably meant, by the rule of `fisherflow_network::near_name`, which this crate cannot see: at an edit distance (a
/// swap of neighbours counts once, case does not) of a third of `name`'s length at most, or one, or the one beginning with all of the other.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
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
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered() {
        assert_eq!(
            nearest("flux_er", ["flux", "flux_err", "id"]).as_deref(),
            Some("flux_err")
        );
        assert_eq!(nearest("zzz", ["flux", "id"]), None);
        assert_eq!(nearest("error", ["uri", "id", "flux_err"]), None);
        assert_eq!(nearest("e_teff", ["Teff", "id"]).as_deref(), Some("Teff"));
    }
}
