"""Compares an output on S3 with one on disk, bit for bit, and its manifest's counts.

    python same_on_s3.py ENDPOINT BUCKET PREFIX OUTPUT

The manifests list the same tables, and each has equal rows; the metadata differs in the run's id and the catalogues' etags alone. Prints JSON
with counts.
"""

import io
import json
import pathlib
import sys

import boto3
import pyarrow.parquet as pq


def main(endpoint, bucket, prefix, output):
    s3 = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    output = pathlib.Path(output)

    def remote(path):
        return s3.get_object(Bucket=bucket, Key=f"{prefix}/{path}")["Body"].read()

    here, there = json.loads((output / "manifest.json").read_text()), json.loads(remote("manifest.json"))
    assert here["counts"] == there["counts"], (here["counts"], there["counts"])
    names = sorted(file["path"] for file in here["files"])
    assert names == sorted(file["path"] for file in there["files"])
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    present = {obj["Key"].removeprefix(f"{prefix}/") for page in pages for obj in page.get("Contents", [])}
    assert present == set(names) | {"claim.json", "manifest.json", "_SUCCESS", "report.html"}, present
    tables = 0
    for name in names:
        if not name.endswith(".parquet"):
            continue
        a, b = (pq.read_table(source, use_threads=False) for source in (output / name, io.BytesIO(remote(name))))
        assert a.schema.equals(b.schema) and a.equals(b), name
        differ = [k for k in a.schema.metadata if a.schema.metadata[k] != b.schema.metadata.get(k)]
        of_place = ["run_id", "catalogue_etags_sha256", "predict_etags_sha256"]
        assert set(differ) <= {f"fisherflow.{key}".encode() for key in of_place}, (name, differ)
        tables += 1
    print(json.dumps({"tables": tables, "stars": here["counts"]["predict_spectra"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
