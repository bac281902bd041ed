"""The prior precision of maximum evidence, found apart: dense Cholesky log determinants of the written Hessian, and no eigenvalue.

    python evidence.py OUTPUT NETWORK

Prints JSON: for every curve of posterior/evidence.parquet (all blocks together, or a block each) the relative difference of its maximum to the
precision of the run, and the largest difference of its log evidence to the one computed here.
"""

import json
import pathlib
import struct
import sys

import numpy as np
import pandas as pd

KINDS = {"F32": np.float32, "F64": np.float64}


def weights(file):
    """[W | b] of each layer as one vector, by the layer's name."""
    raw = pathlib.Path(file).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])

    def tensor(name):
        start, end = (8 + length + at for at in header[name]["data_offsets"])
        values = np.frombuffer(raw[start:end], KINDS[header[name]["dtype"]])
        return values.reshape(header[name]["shape"]).astype(np.float64)

    names = [name.removesuffix(".weight") for name in header if name.endswith(".weight")]
    return {name: np.column_stack([tensor(f"{name}.weight"), tensor(f"{name}.bias")]).ravel() for name in names}


def hessian(file, n_spectra):
    table = pd.read_parquet(file)
    factors = {name: np.stack(rows.sort_values("row")["values"].to_list()) for name, rows in table.groupby("factor")}
    if "dense" in factors:
        return factors["dense"]
    if "diagonal" in factors:
        return np.diag(factors["diagonal"].ravel())
    return np.kron(factors["kron_g"], factors["kron_a"]) / n_spectra


def log_evidence(hessians, squared, log_delta):
    delta = np.exp(log_delta)
    value = -0.5 * delta * squared
    for h in hessians:
        root = np.linalg.cholesky(h + delta * np.eye(len(h)))
        # Per weight, so that no large sums cancel: ln(L_ii^2 / delta).
        value -= 0.5 * np.sum(2 * np.log(np.diag(root)) - log_delta)
    return value


def best(value):
    """The maximum over ln delta: a grid of half decades, then polynomials through ever nearer points."""
    grid = np.log(10.0) * np.arange(-6.0, 6.0, 0.5)
    centre = grid[np.argmax([value(x) for x in grid])]
    for half in (0.7, 0.1):
        x = half * np.cos(np.pi * (np.arange(11) + 0.5) / 11)
        fit = np.polynomial.Polynomial.fit(x, [value(centre + step) for step in x], 8)
        roots = fit.deriv().roots()
        roots = roots[(np.abs(roots.imag) < 1e-9) & (np.abs(roots.real) < half)].real
        centre += roots[np.argmax(fit(roots))]
    return np.exp(centre)


def main(output, network):
    output = pathlib.Path(output)
    blocks = pd.read_parquet(output / "posterior/blocks.parquet")
    curves = pd.read_parquet(output / "posterior/evidence.parquet")
    by_layer = weights(network)
    squared = [sum(np.sum(by_layer[name] ** 2) for name in layer.split("+")) for layer in blocks["layer"]]
    hessians = [
        hessian(output / f"posterior/hessian/block-{at:03}.parquet", n) for at, n in enumerate(blocks["n_spectra"])
    ]
    found = {}
    for layer in curves["layer"].astype(object).where(curves["layer"].notna(), None).unique():
        which = [at for at, name in enumerate(blocks["layer"]) if layer is None or name == layer]
        curve = curves[curves["layer"].isna() if layer is None else curves["layer"] == layer]
        own, size = [hessians[at] for at in which], sum(squared[at] for at in which)

        def value(log_delta):
            return log_evidence(own, size, log_delta)

        precision = blocks["prior_precision"].iloc[which[0]]
        near = curve[np.abs(np.log(curve["prior_precision"] / precision)) < np.log(30.0)]
        apart = [abs(value(np.log(row.prior_precision)) - row.log_evidence) for row in near.itertuples()]
        found["all" if layer is None else layer] = {
            "precision": abs(precision / best(value) - 1.0),
            "curve": max(apart) / abs(value(np.log(precision))),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
