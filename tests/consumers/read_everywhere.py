"""Reads every table of an output with pyarrow, pandas, DuckDB and Polars, and checks that they all see the same.

    python read_everywhere.py OUTPUT N_PIXELS

Equal values bit for bit, nulls where a row is bad, lists of the stated length, and the metadata. Prints JSON with counts.
"""

import json
import math
import pathlib
import sys

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq

METADATA = [
    "fisherflow.version",
    "fisherflow.schema_version",
    "fisherflow.run_id",
    "fisherflow.model_sha256",
    "fisherflow.catalogue_etags_sha256",
    "fisherflow.convention",
    "fisherflow.labels",
    "fisherflow.units",
    "fisherflow.ucds",
]
LABELS = ["teff", "logg", "fe_h"]


def plain(value):
    """A value of any reader as Python has it: lists of floats, text, numbers, None."""
    if value is None or value is pd.NaT:
        return None
    if isinstance(value, (list, np.ndarray, pl.Series)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def columns(frame):
    return {name: [plain(v) for v in values] for name, values in frame.items()}


def readers(folder):
    """The table of a folder (parts in the order of their names), by reader: column name to values."""
    files = sorted(str(f) for f in folder.glob("*.parquet"))
    pattern = str(folder / "*.parquet")
    arrow = pq.read_table(folder)
    # No reader may meet a NaN: missing is null.
    for name in arrow.column_names:
        for chunk in arrow[name].chunks:
            values = chunk.flatten() if str(chunk.type).startswith("list") else chunk
            if str(values.type) in ("double", "float"):
                assert not np.isnan(values.drop_null().to_numpy()).any(), f"{folder}: NaN in {name}"
    duck = duckdb.sql(f"select * from read_parquet({files!r})").fetchall()
    names = [c[0] for c in duckdb.sql(f"describe select * from read_parquet({files!r})").fetchall()]
    return {
        "pyarrow": columns({n: arrow[n].to_pylist() for n in arrow.column_names}),
        "pandas": columns({n: s.tolist() for n, s in pd.read_parquet(folder).items()}),
        "duckdb": columns({n: [row[i] for row in duck] for i, n in enumerate(names)}),
        "polars": columns(pl.read_parquet(pattern).to_dict(as_series=False)),
    }


def same(folder):
    tables = readers(folder)
    first = tables["pyarrow"]
    for reader, table in tables.items():
        assert list(table) == list(first), (folder, reader, list(table), list(first))
        for name, values in table.items():
            assert values == first[name], (folder, reader, name)
    for file in folder.glob("*.parquet"):
        metadata = {k.decode(): v.decode() for k, v in pq.read_metadata(file).metadata.items()}
        missing = [key for key in METADATA if key not in metadata]
        assert not missing, (file, missing)
        assert json.loads(metadata["fisherflow.labels"]) == LABELS
        assert json.loads(metadata["fisherflow.convention"])
    return first, len(tables), metadata


def main(output, n_pixels):
    output, n_pixels = pathlib.Path(output), int(n_pixels)
    stars, n_readers, metadata = same(output / "predictions")
    flags = {flag["name"]: flag for flag in json.loads(metadata["fisherflow.flags"])}
    fatal = sum(1 << flag["bit"] for flag in flags.values() if flag["bad"])
    expected = ["id", "file", "row", "visit"] + [c for label in LABELS for c in (label, f"e_{label}")]
    expected += ["rho_teff_logg", "rho_teff_fe_h", "rho_logg_fe_h", "cov", "cov_flux", "cov_weights", "cov_intrinsic"]
    assert list(stars) == expected + ["n_pix_good", "flags", "flag_bad"], list(stars)
    results = expected[4:]
    for row, bad in enumerate(stars["flag_bad"]):
        assert bad == (stars["flags"][row] & fatal != 0), row
        for name in results:
            assert (stars[name][row] is None) == bad, (row, name)
        if bad:
            continue
        parts = {}
        for name in ["cov", "cov_flux", "cov_weights", "cov_intrinsic"]:
            assert len(stars[name][row]) == 9, (row, name)
            parts[name] = np.reshape(stars[name][row], (3, 3))
            assert (parts[name] == parts[name].T).all(), (row, name)
        total = parts["cov_flux"] + parts["cov_weights"] + parts["cov_intrinsic"]
        assert np.allclose(parts["cov"], total, rtol=1e-12, atol=0), row
        for k, label in enumerate(LABELS):
            assert math.isclose(stars[f"e_{label}"][row] ** 2, parts["cov"][k, k], rel_tol=1e-12), row
    jacobians, _, metadata = same(output / "jacobians")
    assert int(metadata["fisherflow.n_pixels"]) == n_pixels
    for name in ["id", "file", "row"]:
        assert jacobians[name] == [i for i in stars[name] for _ in LABELS], name
    assert jacobians["label"] == LABELS * len(stars["id"])
    for row, jacobian in enumerate(jacobians["jacobian"]):
        assert (jacobian is None) == stars["flag_bad"][row // 3], row
        assert jacobian is None or len(jacobian) == n_pixels, row

    # A cov_flux computed by a reader: J diag(1 / ivar) J^T of the unmasked stars.
    catalogue = pd.read_parquet(output.parent / "stars").set_index("id")
    checked = 0
    for row, star in enumerate(stars["id"]):
        ivar = catalogue.loc[star, "ivar"]
        if stars["flag_bad"][row] or (ivar == 0).any():
            continue
        j = np.array(jacobians["jacobian"][3 * row : 3 * row + 3], dtype=float)
        covariance = (j / np.asarray(ivar, float)) @ j.T
        found = np.reshape(stars["cov_flux"][row], (3, 3))
        sigma = np.sqrt(np.diag(covariance))
        assert (np.abs(found - covariance) <= 2e-5 * np.outer(sigma, sigma)).all(), (row, found, covariance)
        checked += 1
    assert checked > 30

    for folder in ["hessian", "inverse", "marginal_variance"]:
        same(output / "posterior" / folder)
    weights = pd.read_parquet(output / "posterior/marginal_variance")
    assert (weights["std_error"] > 0).all() and len(weights) == 31 * 8 + 9 * 5 + 6 * 3, len(weights)
    blocks = pd.read_parquet(output / "posterior/blocks.parquet")
    assert len(blocks) == 3, blocks
    print(json.dumps({"readers": n_readers, "stars": len(stars["id"]), "bad": sum(stars["flag_bad"]), "checked": checked}))


if __name__ == "__main__":
    main(*sys.argv[1:])
