//! NumPy's `.npy`: one array of doubles, row-major (numpy.lib.format, version 1.0; versions 2 and 3 are read too).

const MAGIC: &[u8] = b"\x93NUMPY";
/// The header ends at a multiple of this.
const ALIGNMENT: usize = 64;

/// The bytes of a `.npy` file with an array of this shape.
#[must_use]
pub fn to_npy(shape: &[usize], values: &[f64]) -> Vec<u8> {
    let sides: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut header = format!(
        "{{'descr': '<f8', 'fortran_order': False, 'shape': ({}{comma}), }}",
        sides.join(", ")
    );
    let length = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(length.next_multiple_of(ALIGNMENT) - length));
    header.push('\n');
    let mut bytes = Vec::with_capacity(length + ALIGNMENT + 8 * values.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// The values of a `.npy` file, row after row; in words what is wrong with it.
pub(crate) fn from_npy(bytes: &[u8]) -> Result<Vec<f64>, String> {
    let cut = || "it is cut short".to_owned();
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| "it does not begin as a .npy file does".to_owned())?;
    let (version, rest) = rest.split_at_checked(2).ok_or_else(cut)?;
    let size = if version[0] == 1 { 2 } else { 4 };
    let (length, rest) = rest.split_at_checked(size).ok_or_else(cut)?;
    let length = length.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = String::from_utf8_lossy(header);
    let values: Vec<f64> = if header.contains("'<f8'") {
        let (values, rest) = data.as_chunks::<8>();
        rest.is_empty()
            .then(|| values.iter().map(|b| f64::from_le_bytes(*b)).collect())
    } else if header.contains("'<f4'") {
        let (values, rest) = data.as_chunks::<4>();
        rest.is_empty()
            .then(|| values.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect())
    } else {
        return Err(format!("its numbers are no little-endian floats: {}", header.trim()));
    }
    .ok_or_else(cut)?;
    let shape = header.split(['(', ')']).nth(1).unwrap_or_default();
    let sides: Vec<usize> = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    if sides.iter().product::<usize>() != values.len() {
        return Err(cut());
    }
    if header.contains("'fortran_order': True") && sides.iter().filter(|side| **side > 1).count() > 1 {
        return Err("it is column-major: save numpy.ascontiguousarray of it".to_owned());
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_read_back_as_written() {
        let values = [1.0, -2.5, f64::MAX, 0.1, 1e-300, 6.0];
        for shape in [&[6][..], &[2, 3], &[6, 1]] {
            let bytes = to_npy(shape, &values);
            assert_eq!((bytes.len() - 48) % ALIGNMENT, 0);
            assert_eq!(from_npy(&bytes).unwrap(), values);
            assert!(from_npy(&bytes[..bytes.len() - 8]).unwrap_err().contains("short"));
            assert!(from_npy(&bytes[..20]).is_err());
        }
        // As numpy 2 writes it.
        let header = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }";
        assert!(
            to_npy(&[2, 3], &values)
                .windows(header.len())
                .any(|w| w == header.as_bytes())
        );
        assert!(to_npy(&[6], &values).windows(4).any(|w| w == b"(6,)"));
    }

    #[test]
    fn floats_are_read_as_doubles() {
        let mut bytes = to_npy(&[3], &[0.0; 3]);
        bytes.truncate(bytes.len() - 24);
        let at = bytes.windows(5).position(|w| w == b"'<f8'").unwrap();
        bytes[at..at + 5].copy_from_slice(b"'<f4'");
        bytes.extend([1.5f32, -2.0, 4.0].iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(from_npy(&bytes).unwrap(), [1.5, -2.0, 4.0]);
    }

    #[test]
    fn what_is_no_array_of_floats_is_said() {
        assert!(from_npy(b"1.0\n2.0\n").unwrap_err().contains(".npy"));
        let bytes = to_npy(&[2, 3], &[0.0; 6]);
        let other = |from: &str, to: &str| {
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let mut bytes = bytes.clone();
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            from_npy(&bytes).unwrap_err()
        };
        assert!(other("'<f8'", "'<i8'").contains("floats"));
        assert!(other("'fortran_order': False", "'fortran_order': True ").contains("column-major"));
    }
}
