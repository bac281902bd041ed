//! Names in the order a person would put them: `features.2` before `features.10`.

use std::cmp::Ordering;

/// Compares by runs of digits as numbers and everything else as text.
pub(crate) fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        match (left.is_empty(), right.is_empty()) {
            (true, true) => return a.cmp(b),
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        let (part, part_b) = (first_run(left), first_run(right));
        let order = if is_digits(part) && is_digits(part_b) {
            let (x, y) = (part.trim_start_matches('0'), part_b.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            part.cmp(part_b)
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (&left[part.len()..], &right[part_b.len()..]);
    }
}

/// The leading run of digits, or of anything else.
fn first_run(text: &str) -> &str {
    let digits = is_digits(&text[..text.chars().next().map_or(0, char::len_utf8)]);
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    &text[..end]
}

fn is_digits(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_as_numbers() {
        let mut names = [
            "fc10",
            "fc2",
            "a.10.b",
            "a.9.c",
            "features.0",
            "a.9.b",
            "a",
            "é2",
            "fc02",
            "features.12",
            "features.4",
        ];
        names.sort_by(|a, b| natural_order(a, b));
        let expected = [
            "a",
            "a.9.b",
            "a.9.c",
            "a.10.b",
            "fc02",
            "fc2",
            "fc10",
            "features.0",
            "features.4",
            "features.12",
            "é2",
        ];
        assert_eq!(names, expected);
    }
}
