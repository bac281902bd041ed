"""How far the output of quickstart.toml is from `expected.json`, which was computed apart in numpy.

    python quickstart.py OUTPUT EXPECTED

Prints JSON: for each quantity the largest difference, over the largest value of that quantity.
"""

import json
import pathlib
import sys

import numpy as np
import pandas as pd


def apart(found, expected):
    found, expected = np.asarray(found, float).ravel(), np.asarray(expected, float).ravel()
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main(output, expected):
    output, expected = pathlib.Path(output), json.loads(pathlib.Path(expected).read_text())
    manifest = json.loads((output / "manifest.json").read_text())
    settings, counts = manifest["settings"], manifest["counts"]
    for name, count in expected["fit"].items():
        assert counts[f"fit_{name}"] == count, (name, counts)
    first = expected["first_10"]
    stars = pd.read_parquet(output / "predictions").set_index("id").loc[first["id"]]
    blocks = pd.read_parquet(output / "posterior/blocks.parquet")
    labels = settings["network"]["labels"]
    pulls = [label["standard_deviation"] for label in settings["pulls"]]
    found = {
        "noise": apart(settings["noise_estimate"]["covariance"], expected["noise"]),
        "intrinsic": apart(settings["intrinsic_estimate"]["covariance"], expected["intrinsic"]),
        "log_det": apart(blocks["log_det"], expected["log_det"]),
        "effective_parameters": apart(blocks["effective_parameters"], expected["effective_parameters"]),
        "pulls": apart(pulls, expected["pull_standard_deviation"]),
        "labels": apart(stars[labels], first["labels"]),
    }
    certificate, wanted = settings["certificate"], expected["certificate"]
    comparison = certificate["comparison"]
    assert (comparison["n_spectra"], comparison["n_stars"]) == (wanted["spectra"], wanted["stars"]), comparison
    quantiles = [comparison["structures"][0]["ratio"][name] for name in ("median", "p05", "p95")]
    found["ratio"] = apart(quantiles, wanted["ratio"])
    columns = ["sigma_ratio", "sigma_ratio_p05", "sigma_ratio_p95"]
    found["first_block_ratio"] = apart(blocks.loc[0, columns].to_numpy(float), wanted["first_block"])
    found["dense_block_ratio"] = apart(blocks.loc[1, columns].to_numpy(float), [1.0, 1.0, 1.0])
    found["exact_effective_parameters"] = apart(comparison["effective_parameters"], wanted["effective_parameters"])
    found["gradient_norm"] = apart(blocks["gradient_norm"], wanted["gradient_norm"])
    found["newton_decrement"] = apart(blocks["newton_decrement"], wanted["newton_decrement"])
    for part in ("cov_flux", "cov_weights"):
        covariances, wanted = np.stack(stars[part].to_list()), np.array(first[part])
        # Star by star: a small covariance counts as much as a large one.
        found[part] = max(apart(c, w) for c, w in zip(covariances, wanted))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
