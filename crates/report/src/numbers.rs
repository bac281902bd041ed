//! Numbers as people read them.

use fisherflow_store::in_words::grouped;
pub(crate) use fisherflow_store::in_words::{bytes, count, counted};

/// With `digits` significant digits; `–` where it is not finite.
pub(crate) fn significant(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    // The exponent of the rounded value: 9.999 with three digits is 10.0.
    let scientific = format!("{value:.*e}", digits.saturating_sub(1));
    let exponent: i32 = scientific
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok())
        .unwrap_or_default();
    if !(-3..6).contains(&exponent) {
        return scientific;
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    with_commas(&format!("{value:.decimals$}"))
}

/// A share: `66.1 %`.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() {
        format!("{:.1} %", 100.0 * share)
    } else {
        "–".to_owned()
    }
}

/// Commas between thousands, from 10,000 on.
fn with_commas(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    if whole.len() < 5 {
        return text.to_owned();
    }
    format!("{sign}{}{rest}", grouped(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn significant_digits() {
        let cases = [
            (0.012_345, "0.0123"),
            (123.45, "123"),
            (9.999, "10.0"),
            (-4.5, "-4.50"),
            (12_345.6, "12,346"),
            (1.234e-9, "1.23e-9"),
            (8.55e7, "8.55e7"),
            (0.0, "0"),
            (f64::NAN, "–"),
        ];
        for (value, text) in cases {
            assert_eq!(significant(value, 3), text);
        }
    }

    #[test]
    fn shares() {
        assert_eq!(percent(0.6613), "66.1 %");
    }
}
