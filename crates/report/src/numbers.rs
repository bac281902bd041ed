//! Numbers as people read them.

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
    grouped(&format!("{value:.decimals$}"))
}

/// A count: `12,345`.
pub(crate) fn count(value: u64) -> String {
    grouped(&value.to_string())
}

/// Spectra, objects, ...: `1 spectrum`, `2 spectra`.
pub(crate) fn counted(value: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(value), if value == 1 { one } else { many })
}

/// A share: `66.1 %`.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() {
        format!("{:.1} %", 100.0 * share)
    } else {
        "–".to_owned()
    }
}

/// A size: `12.4 MB`.
pub(crate) fn bytes(value: u64) -> String {
    let (unit, size) = match value {
        0..1_000 => return counted(value, "byte", "bytes"),
        1_000..1_000_000 => ("kB", 1e3),
        1_000_000..1_000_000_000 => ("MB", 1e6),
        _ => ("GB", 1e9),
    };
    format!("{:.1} {unit}", value as f64 / size)
}

/// Commas between thousands, from 10,000 on.
fn grouped(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    if whole.len() < 5 {
        return text.to_owned();
    }
    let mut out = sign.to_owned();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
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
    fn counts_and_sizes() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(1_234), "1234");
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(12_391_582), "12.4 MB");
        assert_eq!(counted(1, "spectrum", "spectra"), "1 spectrum");
        assert_eq!(percent(0.6613), "66.1 %");
    }
}
