//! Reads the f64 arrays of a compressed `.npz`: a zip of `.npy` files.

use std::collections::BTreeMap;
use std::path::Path;

/// An array, row-major.
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

fn number(bytes: &[u8], at: usize, len: usize) -> usize {
    bytes[at..at + len]
        .iter()
        .rev()
        .fold(0, |n, &b| n << 8 | usize::from(b))
}

/// The arrays of the file by name.
pub fn read(path: &Path) -> BTreeMap<String, Array> {
    let bytes = std::fs::read(path).unwrap();
    // The end record names the place of the central directory, whose entries name that of each file.
    let end = (0..bytes.len() - 21)
        .rev()
        .find(|&i| bytes[i..].starts_with(b"PK\x05\x06"))
        .unwrap();
    let mut at = number(&bytes, end + 16, 4);
    let mut arrays = BTreeMap::new();
    for _ in 0..number(&bytes, end + 10, 2) {
        let method = number(&bytes, at + 10, 2);
        let size = number(&bytes, at + 20, 4);
        let name_len = number(&bytes, at + 28, 2);
        let skip = number(&bytes, at + 30, 2) + number(&bytes, at + 32, 2);
        let local = number(&bytes, at + 42, 4);
        let name = std::str::from_utf8(&bytes[at + 46..at + 46 + name_len]).unwrap();
        let start = local + 30 + number(&bytes, local + 26, 2) + number(&bytes, local + 28, 2);
        let packed = &bytes[start..start + size];
        let npy = match method {
            0 => packed.to_vec(),
            8 => miniz_oxide::inflate::decompress_to_vec(packed).unwrap(),
            other => panic!("{name}: compression method {other}"),
        };
        arrays.insert(name.trim_end_matches(".npy").to_owned(), array(name, &npy));
        at += 46 + name_len + skip;
    }
    arrays
}

fn array(name: &str, npy: &[u8]) -> Array {
    assert!(npy.starts_with(b"\x93NUMPY\x01"), "{name}");
    let data = 10 + number(npy, 8, 2);
    let header = std::str::from_utf8(&npy[10..data]).unwrap();
    assert!(header.contains("'<f8'"), "{name}: {header}");
    let shape = header.split(['(', ')']).nth(1).unwrap();
    let shape: Vec<usize> = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let mut values: Vec<f64> = npy[data..]
        .chunks_exact(8)
        .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
    if header.contains("'fortran_order': True") {
        let [rows, cols] = shape[..] else {
            panic!("{name}: column-major, and no matrix");
        };
        let turned = (0..rows * cols).map(|at| values[at % cols * rows + at / cols]);
        values = turned.collect();
    }
    Array { shape, values }
}
