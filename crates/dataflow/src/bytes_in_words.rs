//! Bytes as people read them.

/// `1.5 GiB`.
#[must_use]
pub fn bytes_in_words(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::bytes_in_words;

    #[test]
    fn bytes_are_said_in_binary_units() {
        assert_eq!(bytes_in_words(1023), "1023 B");
        assert_eq!(bytes_in_words(1536), "1.5 KiB");
        assert_eq!(bytes_in_words(3 << 29), "1.5 GiB");
        assert_eq!(bytes_in_words(8 << 30), "8.0 GiB");
        assert_eq!(bytes_in_words(u64::MAX), "16384.0 PiB");
    }
}
