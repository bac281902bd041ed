"""Pulls of stars whose labels are known: (label - prediction) / sqrt(e_label^2 + the label's own variance).

    python pulls.py OUTPUT TEST

Prints JSON: the number of stars, and mean and standard deviation of the pulls of each label.
"""

import json
import pathlib
import sys

import numpy as np
import pandas as pd


def main(output, test):
    stars = pd.read_parquet(pathlib.Path(output) / "predictions")
    known = pd.read_parquet(test, columns=["id", "spt", "j_h", "h_ks", "label_cov"])
    both = stars.merge(known, on="id", suffixes=("", "_known"), validate="one_to_one")
    own = np.stack(both["label_cov"].to_list())
    means, deviations = {}, {}
    for k, label in enumerate(["spt", "j_h", "h_ks"]):
        pulls = (both[f"{label}_known"] - both[label]) / np.sqrt(both[f"e_{label}"] ** 2 + own[:, 4 * k])
        means[label], deviations[label] = float(pulls.mean()), float(pulls.std())
    print(json.dumps({"spectra": len(both), "mean": means, "standard_deviation": deviations}))


if __name__ == "__main__":
    main(*sys.argv[1:])
