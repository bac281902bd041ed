"""Joins the rows of an output, shuffled, to their spectra by `file` and `row`, with pandas, DuckDB and Polars.

    python join_by_key.py OUTPUT CATALOGUE

CATALOGUE: the folder of the catalogue to predict, or its one file. It has the columns id, flux, ivar and visit, the last without a repetition, and the
output has kept visit. Where there are Jacobians, the photons' part is computed anew from those of each row and the errors of its spectrum.
Prints JSON with counts.
"""

import json
import pathlib
import sys

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

KEY = ["file", "row"]
LABELS = ["teff", "logg", "fe_h"]


def spectra(catalogue):
    """Its rows with their keys, and where the names of its files start."""
    if catalogue.is_file():
        files, folder = [catalogue], catalogue.parent
    else:
        files, folder = sorted(catalogue.rglob("*.parquet")), catalogue
    frames = []
    for file in files:
        frame = pd.read_parquet(file)
        frame["file"], frame["row"] = str(file.relative_to(folder)), range(len(frame))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True), [str(file) for file in files], folder


def shuffled(folder, seed):
    """A table in an order that says nothing, as from a reader that keeps none."""
    return pd.read_parquet(folder).sample(frac=1, random_state=seed).reset_index(drop=True)


def main(output, catalogue):
    output, catalogue = pathlib.Path(output), pathlib.Path(catalogue)
    known, files, folder = spectra(catalogue)
    assert known["visit"].is_unique and not known["id"].is_unique
    tables = [name for name in ("predictions", "jacobians") if (output / name).exists()]
    for name in tables:
        schema = pq.read_schema(next((output / name).glob("*.parquet")))
        assert schema.names[:3] == ["id", *KEY], schema.names
        assert [schema.field(column).type for column in KEY] == [pa.string(), pa.int64()], schema
        assert b"fisherflow.row_key" in schema.metadata

    stars = shuffled(output / "predictions", 1)
    assert not stars.duplicated(KEY).any()
    joined = stars.merge(known, on=["id", *KEY], suffixes=("", "_known"), validate="one_to_one")
    assert len(joined) == len(stars) == len(known), (len(joined), len(stars), len(known))
    assert (joined["visit"] == joined["visit_known"]).all()
    # By the identifier alone nobody could tell.
    assert len(stars.merge(known, on="id")) > len(stars)

    # DuckDB numbers the rows of a file itself.
    predictions = str(output / "predictions/*.parquet")
    [[same]] = duckdb.sql(
        f"""select count(*) from read_parquet({files!r}, filename = true, file_row_number = true) c
            join read_parquet('{predictions}') p on c.filename = '{folder}/' || p.file and c.file_row_number = p.row
            where c.visit = p.visit and c.id = p.id"""
    ).fetchall()
    assert same == len(stars), same
    lazy = pl.scan_parquet(predictions).join(pl.from_pandas(known[["visit", *KEY]]).lazy(), on=KEY)
    found = lazy.collect()
    assert len(found) == len(stars) and (found["visit"] == found["visit_right"]).all()

    checked = 0
    if "jacobians" in tables:
        jacobians = shuffled(output / "jacobians", 2)
        assert not jacobians.duplicated([*KEY, "label"]).any() and len(jacobians) == len(LABELS) * len(stars)
        by_label = jacobians.pivot(index=["id", *KEY], columns="label", values="jacobian")
        rows = joined.merge(by_label, on=["id", *KEY], suffixes=("", "_jacobian"), validate="one_to_one")
        assert len(rows) == len(stars)
        for _, row in rows.iterrows():
            j = np.stack([row[f"{label}_jacobian"] for label in LABELS]).astype(float)
            expected = (j / np.asarray(row["ivar"], float)) @ j.T
            sigma = np.sqrt(np.diag(expected))
            apart = np.abs(np.reshape(row["cov_flux"], (3, 3)) - expected) / np.outer(sigma, sigma)
            assert (apart <= 2e-5).all(), (row["file"], row["row"], apart)
            checked += 1
    counts = {"stars": len(stars), "ids": int(known["id"].nunique()), "files": sorted(known["file"].unique())}
    print(json.dumps({**counts, "checked": checked}))


if __name__ == "__main__":
    main(*sys.argv[1:])
