//! Files of other programs, known by the ends of their names, and what they are to be converted to.

/// Ends of names of networks.
const NETWORKS: &[&str] = &["keras", "h5", "hdf5", "onnx", "pt", "pth", "ckpt", "npz", "pb"];
/// Ends of names of catalogues.
const CATALOGUES: &[&str] = &["fits", "fits.gz", "fit", "h5", "hdf5", "csv", "csv.gz", "tsv", "ecsv"];

/// How tables of FITS become Parquet: astropy's own writer leaves values that are missing in it as numbers.
pub const FROM_FITS: &str = "convert it to .parquet as README.md, \"Your own data\", says";

/// What is said of a file that cannot be read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// What it is.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

/// Of a file in the place of a network; `None` where its name tells no other program's.
pub fn network(uri: &str) -> Option<Foreign> {
    ending(uri, NETWORKS).map(|ending| Foreign {
        what: format!("a .{ending} network"),
        remedy: "convert it to .safetensors: README.md, \"From Keras or torch\", says how",
    })
}

/// Of a file in the place of a catalogue.
pub fn catalogue(uri: &str) -> Option<Foreign> {
    ending(uri, CATALOGUES).map(|ending| Foreign {
        what: format!("a .{ending} catalogue"),
        remedy: match ending.starts_with("fit") {
            true => FROM_FITS,
            false => "convert it to .parquet",
        },
    })
}

/// Of a file that may be either: HDF5 is what Keras writes.
pub fn either(uri: &str) -> Option<Foreign> {
    network(uri).or_else(|| catalogue(uri))
}

fn ending<'e>(uri: &str, endings: &[&'e str]) -> Option<&'e str> {
    let lower = uri.to_lowercase();
    endings
        .iter()
        .copied()
        .find(|ending| lower.strip_suffix(ending).is_some_and(|start| start.ends_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_file_is() {
        for (uri, what) in [
            ("s3://b/model.KERAS", "a .keras network"),
            ("best.weights.h5", "a .h5 network"),
            ("net.pth", "a .pth network"),
            ("a.pt", "a .pt network"),
            ("x.fits.gz", "a .fits.gz catalogue"),
            ("x.csv", "a .csv catalogue"),
        ] {
            assert_eq!(either(uri).unwrap().what, what);
        }
        assert_eq!(catalogue("x.fits.gz").unwrap().remedy, FROM_FITS);
        assert_eq!(catalogue("x.csv").unwrap().remedy, "convert it to .parquet");
        for uri in ["out/spex", "c.parquet", "n.safetensors", "h5", "crypt"] {
            assert_eq!(either(uri), None);
        }
    }
}
