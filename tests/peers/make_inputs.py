"""The inputs that fisherflow and its peers share, in one folder.

    make_inputs.py FOLDER --fisherflow BINARY [--spectra N] [--widths 7213,2048,...,3]

catalogue/             simulated spectra, Parquet: what end-to-end runs read
spectra.safetensors    the same: flux, sigma [N, D], labels [N, K] (z-scored), float32
network.safetensors    layers.0.weight [out, in], layers.0.bias [out], layers.2. ...: He normal, ReLU between; linear in the raw flux
posterior.safetensors  of each layer v and w, by which I - 2 v v^T and I - 2 w w^T are eigenbases of a posterior at hand (orthogonal, dense, and
                       no eigenproblem to make), and the eigenvalues s_i t_j in them; `probe`, by which large matrices are compared
matrix.safetensors     with --matrix: X^T X + I of the spectra with a 1 at their ends, float64: one matrix to decompose
full_rank.safetensors  with --matrix: the same of a ninth more spectra than it has rows
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import save_file


def columns(catalogue):
    """flux, sigma [N, D] and labels [N, K], float32, in the order of the catalogue."""
    tables = [pq.read_table(path) for path in sorted(catalogue.glob("*.parquet"))]
    stacked = lambda name: np.concatenate([np.stack(table[name].to_numpy()) for table in tables]).astype(np.float32)
    labels = np.concatenate([np.stack([table[name].to_numpy() for name in ("teff", "logg", "fe_h")], 1) for table in tables])
    labels = (labels - labels.mean(0)) / labels.std(0)
    return stacked("flux"), stacked("flux_err"), labels.astype(np.float32)


def he_normal(widths, random):
    layers = {}
    for layer, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        weight = random.standard_normal((outputs, inputs), dtype=np.float32) * np.float32(np.sqrt(2 / inputs))
        layers[f"layers.{2 * layer}.weight"] = weight
        layers[f"layers.{2 * layer}.bias"] = 0.01 * random.standard_normal(outputs, dtype=np.float32)
    return layers


def matrix(flux):
    """X^T X + I of spectra with a 1 at their ends, in float64."""
    augmented = np.concatenate([flux.astype(np.float64), np.ones((len(flux), 1))], 1)
    return augmented.T @ augmented + np.eye(augmented.shape[1])


def simulated(given, folder, spectra, pixels, *options):
    simulate = [given.fisherflow, "-q", "simulate", folder, "--spectra", str(spectra), "--pixels", str(pixels), *options]
    subprocess.run(simulate, check=True, stdout=subprocess.DEVNULL)
    return columns(folder)


def posterior(widths, random):
    tensors = {"probe": random.uniform(-1, 1, max(8192, *widths) + 1)}
    for layer, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        for side, size in (("a", inputs + 1), ("g", outputs)):
            vector = random.standard_normal(size)
            tensors[f"layers.{2 * layer}.{side}_reflector"] = vector / np.linalg.norm(vector)
            tensors[f"layers.{2 * layer}.{side}_eigenvalues"] = np.sort(random.gamma(0.5, 2.0, size))
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--fisherflow", required=True)
    parser.add_argument("--spectra", type=int, default=2048)
    parser.add_argument("--widths", default="7213,2048,1024,512,256,128,32,3")
    parser.add_argument("--matrix", action="store_true")
    given = parser.parse_args()
    widths = [int(width) for width in given.widths.split(",")]
    given.folder.mkdir(parents=True, exist_ok=True)
    flux, sigma, labels = simulated(given, given.folder / "catalogue", given.spectra, widths[0], "--objects", "4")
    random = np.random.default_rng(1)
    save_file({"flux": flux, "sigma": sigma, "labels": np.ascontiguousarray(labels[:, : widths[-1]])}, given.folder / "spectra.safetensors")
    save_file(he_normal(widths, random), given.folder / "network.safetensors")
    save_file(posterior(widths, random), given.folder / "posterior.safetensors")
    if given.matrix:
        save_file({"matrix": matrix(flux)}, given.folder / "matrix.safetensors")
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            many, _, _ = simulated(given, pathlib.Path(folder), (widths[0] + 1) * 10 // 9, widths[0], "--objects", "4")
        save_file({"matrix": matrix(many)}, given.folder / "full_rank.safetensors")
    (given.folder / "inputs.json").write_text(json.dumps({"widths": widths, "spectra": len(flux)}))


if __name__ == "__main__":
    main()
