//! Which known name was probably meant.

/// The candidate at the smallest edit distance from `name`; the first of equals, and empty where there is no candidate.
pub fn nearest_name<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> &'a str {
    candidates
        .into_iter()
        .min_by_key(|candidate| strsim::damerau_levenshtein(name, candidate))
        .unwrap_or("")
}
