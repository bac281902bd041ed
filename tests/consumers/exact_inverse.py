"""How far the output of exact-inverse.toml is from an exact inverse and from `expected.json`, as pandas reads it.

    python exact_inverse.py OUTPUT EXPECTED

Prints JSON: for each quantity the largest difference, over the largest value of that quantity; `identity` is max |P P^-1 - I|.
"""

import json
import pathlib
import sys

import numpy as np
import pandas as pd


def matrix(folder):
    table = pd.read_parquet(folder).sort_values("row")
    assert set(table["factor"]) == {"dense"}, table["factor"].unique()
    assert list(table["row"]) == list(range(len(table))), "a row of the table for each row of the matrix"
    return np.stack(table["values"].to_list())


def apart(found, expected):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main(output, expected):
    output, expected = pathlib.Path(output), json.loads(pathlib.Path(expected).read_text())
    hessian, inverse = matrix(output / "posterior/hessian"), matrix(output / "posterior/inverse")
    n = len(hessian)
    assert hessian.shape == inverse.shape == (n, n) and n == expected["n_weights"]
    posterior = hessian + expected["prior_precision"] * np.eye(n)
    # The product in twice the digits would cost minutes; in double it rounds by 1e7 * 1e-16 * sqrt(n), well below the limit.
    identity = np.abs(posterior @ inverse - np.eye(n)).max()

    stars = pd.read_parquet(output / "predictions")
    jacobians = pd.read_parquet(output / "jacobians")
    block = pd.read_parquet(output / "posterior/blocks.parquet").iloc[0]
    weights = pd.read_parquet(output / "posterior/marginal_variance")
    assert len(stars) == expected["n_spectra"] and not stars["flag_bad"].any()
    assert int(block["n_spectra"]) == expected["n_spectra"], block
    weights_part = np.stack(stars["cov_weights"].to_list())[:10, 0]
    diagonal = np.diag(inverse)
    # std_error is the square root of the inverse's diagonal, in the order of layer, out_index, in_index with the bias last.
    bias_last = weights.assign(last=weights["in_index"].isna())
    order = bias_last.sort_values(["layer", "out_index", "last", "in_index"], kind="stable")
    print(
        json.dumps(
            {
                "identity": float(identity),
                "labels": apart(stars["logg"][:10], expected["labels_first_10"]),
                "jacobian": apart(np.stack(jacobians["jacobian"].to_list())[:3], np.float32(expected["jacobian_first_3"])),
                "hessian_trace": apart(np.trace(hessian), expected["hessian_trace"]),
                "hessian_diagonal": apart(np.diag(hessian)[:5], expected["hessian_diagonal_first_5"]),
                "hessian_row": apart(hessian[2800, -5:], expected["hessian_row_2800_last_5"]),
                "inverse_diagonal": apart(diagonal[:5], expected["inverse_diagonal_first_5"]),
                "inverse_trace": apart(np.trace(inverse), expected["inverse_trace"]),
                "marginal_variance": apart(order["std_error"] ** 2, diagonal),
                "predictive_sigma": apart(np.sqrt(weights_part), expected["predictive_sigma_first_10"]),
                "log_det": apart(block["log_det"], expected["log_det"]),
                "effective_parameters": apart(block["effective_parameters"], expected["effective_parameters"]),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
