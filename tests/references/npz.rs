//! Reads the arrays of a NumPy `.npz` file, which is a zip archive of `.npy` files: f64 (or i64, read as f64), stored or deflated.

use std::collections::BTreeMap;
use std::path::Path;

/// An array: its shape and its values, row-major.
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// All arrays of a file, by name.
pub fn read(path: &Path) -> BTreeMap<String, Array> {
    let bytes = std::fs::read(path).unwrap();
    let short = |at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
    let long = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    // The end of the archive says how many entries there are and where the list of them starts.
    let end = bytes.windows(4).rposition(|w| w == b"PK\x05\x06").unwrap();
    let mut at = long(end + 16);
    let mut arrays = BTreeMap::new();
    for _ in 0..short(end + 10) {
        assert_eq!(&bytes[at..at + 4], b"PK\x01\x02");
        let (method, packed_size, local) = (short(at + 10), long(at + 20), long(at + 42));
        let name = std::str::from_utf8(&bytes[at + 46..at + 46 + short(at + 28)]).unwrap();
        let start = local + 30 + short(local + 26) + short(local + 28);
        let packed = &bytes[start..start + packed_size];
        let npy = match method {
            0 => packed.to_vec(),
            8 => miniz_oxide::inflate::decompress_to_vec(packed).unwrap(),
            other => panic!("{name} is compressed by method {other}"),
        };
        arrays.insert(name.trim_end_matches(".npy").to_owned(), array(name, &npy));
        at += 46 + short(at + 28) + short(at + 30) + short(at + 32);
    }
    arrays
}

/// The array in a `.npy` file of version 1, brought into row-major order.
fn array(name: &str, npy: &[u8]) -> Array {
    assert_eq!(&npy[..7], b"\x93NUMPY\x01", "{name}");
    let start = 10 + usize::from(u16::from_le_bytes([npy[8], npy[9]]));
    let header = std::str::from_utf8(&npy[10..start]).unwrap();
    let number: fn([u8; 8]) -> f64 = if header.contains("'descr': '<i8'") {
        |bytes| i64::from_le_bytes(bytes) as f64
    } else {
        assert!(header.contains("'descr': '<f8'"), "{name}: {header}");
        f64::from_le_bytes
    };
    let shape = header.split_once('(').unwrap().1.split_once(')').unwrap().0;
    let shape: Vec<usize> = shape.split(',').filter_map(|side| side.trim().parse().ok()).collect();
    let stored: Vec<f64> = npy[start..]
        .chunks_exact(8)
        .map(|b| number(b.try_into().unwrap()))
        .collect();
    assert_eq!(stored.len(), shape.iter().product::<usize>(), "{name}");
    let values = if header.contains("'fortran_order': True") {
        (0..stored.len()).map(|at| stored[column_major(at, &shape)]).collect()
    } else {
        stored
    };
    Array { shape, values }
}

/// Where the value at `at` in row-major order lies in column-major order.
fn column_major(mut at: usize, shape: &[usize]) -> usize {
    shape
        .iter()
        .rev()
        .fold((0, shape.iter().product::<usize>()), |(place, stride), side| {
            let stride = stride / side;
            let index = at % side;
            at /= side;
            (place + index * stride, stride)
        })
        .0
}
