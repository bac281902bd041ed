//! A vector out of a `.npy` file, as `numpy.save` writes it: doubles or floats of this machine's byte order, one after the other.
//!
//! The format: magic, version, length of the header, the header (a Python dictionary of `descr`, `fortran_order` and `shape`), the values
//! (NumPy Enhancement Proposal 1).

use std::path::Path;

use crate::exit_code::CliError;

/// The values of a file, whatever its shape, in the order of a C array.
///
/// # Errors
/// The file cannot be read, or holds anything but numbers in that order.
pub fn read(path: &Path) -> Result<Vec<f64>, CliError> {
    let refused = |problem: String| CliError::Arguments(format!("{}: {problem}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    values(&bytes).map_err(|problem| refused(format!("{problem}: save it with numpy.save, as float64 or float32")))
}

fn values(bytes: &[u8]) -> Result<Vec<f64>, String> {
    let short = || "it is cut short".to_owned();
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err("it is no .npy file".to_owned());
    }
    let (start, length) = match bytes.get(6) {
        Some(1) => (
            10,
            bytes.get(8..10).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))),
        ),
        Some(2 | 3) => (
            12,
            bytes
                .get(8..12)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize),
        ),
        _ => return Err("it is of an unknown version".to_owned()),
    };
    let end = start + length.ok_or_else(short)?;
    let header = String::from_utf8_lossy(bytes.get(start..end).ok_or_else(short)?).into_owned();
    let data = &bytes[end..];
    let one_dimensional = shape(&header).is_some_and(|shape| shape.iter().filter(|&&side| side != 1).count() <= 1);
    if header.contains("'fortran_order': True") && !one_dimensional {
        return Err("its values are in Fortran order".to_owned());
    }
    let values: Vec<f64> = if header.contains("'<f8'") {
        let (values, _) = data.as_chunks::<8>();
        values.iter().map(|b| f64::from_le_bytes(*b)).collect()
    } else if header.contains("'<f4'") {
        let (values, _) = data.as_chunks::<4>();
        values.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
    } else {
        return Err("it holds no little-endian floats".to_owned());
    };
    match shape(&header) {
        Some(shape) if shape.iter().product::<usize>() == values.len() => Ok(values),
        _ => Err(short()),
    }
}

/// The numbers between the brackets of `'shape': (...)`.
fn shape(header: &str) -> Option<Vec<usize>> {
    let (_, rest) = header.split_once("'shape'")?;
    let (_, rest) = rest.split_once('(')?;
    let (inside, _) = rest.split_once(')')?;
    inside
        .split(',')
        .map(str::trim)
        .filter(|side| !side.is_empty())
        .map(|side| side.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn doubles_and_floats_are_read() {
        let doubles: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(values(&file("<f8", "(2,)", &doubles)).unwrap(), [1.5, -2.0]);
        assert_eq!(values(&file("<f8", "(1, 2)", &doubles)).unwrap(), [1.5, -2.0]);
        let floats: Vec<u8> = [1.5f32, -2.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(values(&file("<f4", "(3,)", &floats)).unwrap(), [1.5, -2.0, 4.0]);
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(values(b"PK\x03\x04").unwrap_err().contains("no .npy"));
        assert!(values(&file("<i8", "(1,)", &[0; 8])).unwrap_err().contains("floats"));
        assert!(values(&file("<f8", "(2,)", &[0; 8])).unwrap_err().contains("short"));
        assert!(
            values(&file("<f8", "(2,)", &[0; 8])[..20])
                .unwrap_err()
                .contains("short")
        );
    }
}
