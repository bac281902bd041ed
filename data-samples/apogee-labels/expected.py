"""What fisherflow must find for this sample, computed another way: numpy in float64, every weight Jacobian in full.

    E(theta) = sum_n 1/2 r_n^2 / R + 1/2 delta |theta|^2,   H = sum_n J_n^T J_n / R,   P = H + delta I

over all rows of `catalogue.parquet`. The label's scale is 1, so normalised units are dex. Weights are in the order of the layers,
each layer as [W | b] of shape [out, in + 1], row-major. Writes `expected.json`; reads only the two files of this folder.
"""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

HERE = pathlib.Path(__file__).resolve().parent
NOISE = 0.0056  # R [dex^2]: the mean squared residual of all the network's training stars
PRIOR_PRECISION = 1.0  # delta
LAYERS = ["features.0", "features.2", "features.4"]


def jacobians(tensors, inputs):
    """Output [n], d output / d weights [n, 2801] and d output / d inputs [n, 3] (dex per input unit)."""
    x = (inputs - tensors["normalisation.input_mean"]) / tensors["normalisation.input_scale"]
    activations, slopes = [], []
    for layer in LAYERS:
        activations.append(np.hstack([x, np.ones((len(x), 1))]))
        x = x @ tensors[f"{layer}.weight"].astype(float).T + tensors[f"{layer}.bias"].astype(float)
        if layer != LAYERS[-1]:
            slopes.append(np.where(x > 0.0, 1.0, 0.01))
            x = x * slopes[-1]
    gradient = np.ones((len(x), 1))
    by_layer = []
    for index in reversed(range(len(LAYERS))):
        by_layer.append((gradient[:, :, None] * activations[index][:, None, :]).reshape(len(x), -1))
        gradient = gradient @ tensors[f"{LAYERS[index]}.weight"].astype(float)
        if index > 0:
            gradient = gradient * slopes[index - 1]
    return x[:, 0], np.hstack(by_layer[::-1]), gradient / tensors["normalisation.input_scale"]


def main():
    tensors = load_file(HERE / "network.safetensors")
    catalogue = pq.read_table(HERE / "catalogue.parquet")
    inputs = np.stack(catalogue["inputs"].to_numpy())
    output, weights, by_input = jacobians(tensors, inputs)

    # A finite difference keeps the formulas above honest.
    step = 1e-6 * tensors["normalisation.input_scale"]
    for k in range(3):
        shift = np.zeros(3)
        shift[k] = step[k]
        numeric = (jacobians(tensors, inputs[:50] + shift)[0] - jacobians(tensors, inputs[:50] - shift)[0]) / (2.0 * step[k])
        assert np.median(np.abs(numeric - by_input[:50, k])) < 1e-7 * np.abs(by_input[:50, k]).max()

    hessian = weights.T @ weights / NOISE
    posterior = hessian + PRIOR_PRECISION * np.eye(len(hessian))
    eigenvalues = np.linalg.eigvalsh(hessian)
    inverse = np.linalg.inv(posterior)
    inverse = inverse @ (2.0 * np.eye(len(hessian)) - posterior @ inverse)  # one Newton step; symmetrising would lose digits
    sigma = np.sqrt(np.einsum("ni,ij,nj->n", weights[:10], inverse, weights[:10]))
    identity = np.abs(posterior @ inverse - np.eye(len(hessian))).max()
    residual = catalogue["logg"].to_numpy() - output
    result = {
        "conventions": "sum over spectra; noise R in dex^2; layers in order, each [W | b] [out, in + 1], row-major",
        "n_spectra": len(inputs),
        "n_weights": len(hessian),
        "noise": [[NOISE]],
        "prior_precision": PRIOR_PRECISION,
        "labels_first_10": output[:10].tolist(),
        "residual_rms": float(np.sqrt(np.mean(residual**2))),
        "jacobian_first_3": by_input[:3].tolist(),
        "hessian_trace": float(np.trace(hessian)),
        "hessian_diagonal_first_5": np.diag(hessian)[:5].tolist(),
        "hessian_row_2800_last_5": hessian[2800, -5:].tolist(),
        "hessian_largest_eigenvalue": float(eigenvalues[-1]),
        "effective_parameters": float(np.sum(np.clip(eigenvalues, 0.0, None) / (np.clip(eigenvalues, 0.0, None) + PRIOR_PRECISION))),
        "log_det": float(np.linalg.slogdet(posterior)[1]),
        "inverse_diagonal_first_5": np.diag(inverse)[:5].tolist(),
        "inverse_trace": float(np.trace(inverse)),
        "predictive_sigma_first_10": sigma.tolist(),
    }
    (HERE / "expected.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"condition {(eigenvalues[-1] + PRIOR_PRECISION) / PRIOR_PRECISION:.1e}, P P^-1 - I at most {identity:.1e}")


if __name__ == "__main__":
    main()
