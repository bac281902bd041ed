//! The contract of the run file, key by key.

use std::path::Path;

use super::RunFile;

mod catalogues;
mod keys;
mod refusals;

/// A run file of every table, in which tests replace lines.
const WHOLE: &str = r#"version = 1

[network]
uri = "network.safetensors"
layers = ["dense", "relu", "dense"]
input_mean = 1.0
input_scale = 0.1
[network.labels]
names = ["teff", "logg", "fe_h"]
units = ["K", "dex", "dex"]
mean = [4700.0, 2.3, -0.2]
scale = [500.0, 0.8, 0.3]

[catalogue]
uri = "s3://survey/training/*.parquet"
format = "parquet"
id = "id"
flux = "flux"
sigma = "flux_err"
mask = "mask"
bad_bits = [3, 0, 1]
labels = ["teff", "logg", "fe_h"]
label_errors = ["e_teff", "e_logg", "e_fe_h"]
holdout_group = "source"
on_bad_object = "fail"

[predict]
uri = "s3://survey/dr17/*.parquet"
jacobians = true
keep_columns = ["snr"]

[curvature]
structure = "kfac"
[curvature.layers]
"layers.6" = "block"

[noise]
from = "holdout"
holdout_fraction = 0.2
[prior]
precision = 1.5

[compute]
precision = "f32"
batch = 512
threads = 1
group = 2048
[output]
uri = "out/spex"

[train]
hidden = [2048, 1024, 512, 256, 128, 32]
epochs = 30
learning_rate = 0.0008
batch = 64
patience = 5
"#;

/// A run file of as few keys as possible.
const LEAST: &str = r#"version = 1
[network]
uri = "n.safetensors"
[catalogue]
uri = "c.parquet"
id = "id"
flux = "flux"
ivar = "ivar"
labels = ["teff"]
[curvature]
structure = "full"
[prior]
precision = 0
[output]
uri = "out"
"#;

fn parse(text: &str) -> Result<RunFile, String> {
    RunFile::parse("run.toml", text.to_owned()).map_err(|e| e.to_string())
}

/// `text` with one line replaced, which must be there.
fn with(text: &str, line: &str, replacement: &str) -> String {
    let pattern = format!("{line}\n");
    assert_eq!(text.matches(&pattern).count(), 1, "{line}");
    text.replace(&pattern, &format!("{replacement}\n"))
}

/// The error of `WHOLE` with one line replaced.
fn refused(line: &str, replacement: &str) -> String {
    parse(&with(WHOLE, line, replacement)).unwrap_err()
}

/// The line of `WHOLE` that begins with `start`, counted from 1.
fn line_of(start: &str) -> usize {
    1 + WHOLE.lines().position(|l| l.starts_with(start)).unwrap()
}
