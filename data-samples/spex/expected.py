"""What fisherflow must find for pipelines/quickstart.toml, computed apart from it: numpy in float64, every weight Jacobian in full.

    python data-samples/spex/expected.py        # writes expected.json beside it

Nothing is shared with the program but the two tables, the network's numbers and the formulas.
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import minimize

HERE = Path(__file__).parent
LABELS = ["spt", "j_h", "h_ks"]
HOLDOUT_FRACTION = 0.2
PRIOR_PRECISION = 100.0
COMPARED_STARS = 200
K = len(LABELS)


def network():
    """Weights [out, in] and biases of each layer, normalisations."""
    raw = (HERE / "network.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    kinds = {"F32": np.float32, "F64": np.float64}

    def tensor(name):
        entry = header[name]
        start, end = entry["data_offsets"]
        values = np.frombuffer(raw[8 + length + start : 8 + length + end], kinds[entry["dtype"]])
        return values.reshape(entry["shape"]).astype(np.float64)

    names = sorted({name.rsplit(".", 1)[0] for name in header if name.endswith(".weight")})
    layers = [(tensor(f"{name}.weight"), tensor(f"{name}.bias")) for name in names]
    parts = ["input_mean", "input_scale", "label_mean", "label_scale"]
    return layers, {part: tensor(f"normalisation.{part}") for part in parts}


def table(name):
    """Flux, sigma [n, D], labels [n, K], label covariances [n, K, K], hold-out hashes."""
    read = pq.read_table(HERE / f"{name}.parquet")
    flux = np.array(read["flux"].to_pylist(), np.float64)
    sigma = np.array(read["sigma"].to_pylist(), np.float64)
    labels = np.stack([read[label].to_numpy() for label in LABELS], 1)
    covariance = np.array(read["label_cov"].to_pylist(), np.float64).reshape(-1, K, K)
    first_bits = [int.from_bytes(hashlib.sha256(s.encode()).digest()[:8], "big") >> 11 for s in read["source"].to_pylist()]
    return read["id"].to_pylist(), flux, sigma, labels, covariance, np.array(first_bits) / 2.0**53


def differentiate(layers, norms, flux):
    """Labels, J_x [n, K, D] in label units, inputs [n, in + 1] and output gradients [n, K, out] of each layer (normalised units)."""
    a = (flux - norms["input_mean"]) / norms["input_scale"]
    inputs, masks = [], []
    for i, (weight, bias) in enumerate(layers):
        inputs.append(np.concatenate([a, np.ones((len(a), 1))], 1))
        z = a @ weight.T + bias
        masks.append(z > 0)
        a = np.where(z > 0, z, 0) if i + 1 < len(layers) else z
    grads = [None] * len(layers)
    g = np.broadcast_to(np.eye(K), (len(flux), K, K))
    for i in reversed(range(len(layers))):
        if i + 1 < len(layers):
            g = g * masks[i][:, None, :]
        grads[i] = g
        g = g @ layers[i][0]
    scale = norms["label_scale"]
    return a * scale + norms["label_mean"], g * scale[:, None] / norms["input_scale"], inputs, grads


def scatter(residuals, known):
    """C = L L^T that maximises the likelihood of r_n ~ N(0, C + K_n), in units of the residuals' root mean square."""
    unit = np.sqrt((residuals**2).mean(0))
    r, v = residuals / unit, known / np.outer(unit, unit)
    lower = np.tril_indices(K)

    def deviance(elements):
        root = np.zeros((K, K))
        root[lower] = elements
        total = root @ root.T + v
        inverse = np.linalg.inv(total)
        w = np.einsum("nij,nj->ni", inverse, r)
        value = np.linalg.slogdet(total)[1].sum() + (r * w).sum()
        slope = 2 * (inverse.sum(0) - w.T @ w) @ root
        return value / len(r), slope[lower] / len(r)

    start = np.linalg.cholesky(r.T @ r / len(r))[lower]
    found = minimize(deviance, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    root = np.zeros((K, K))
    root[lower] = found.x
    return root @ root.T * np.outer(unit, unit)


def exact_variances(inputs, grads, precision, which, train, stars):
    """Diagonals [n, K] of J* (J^T J + delta)^-1 J*^T over the layers `which`, and effective parameters: by the Gram matrix of all rows of J."""
    root = np.linalg.cholesky(precision)

    def sides(layer, rows, factor):
        g = grads[layer][rows] if factor is None else np.einsum("nkj,nko->njo", factor, grads[layer][rows])
        return inputs[layer][rows], g.reshape(-1, g.shape[2])

    def gram(rows, columns, left, right):
        total = 0
        for layer in which:
            (a, g), (b, h) = sides(layer, rows, left), sides(layer, columns, right)
            total = total + np.kron(a @ b.T, np.ones((K, K))) * (g @ h.T)
        return total

    q = gram(train, train, root, root)
    factor = np.linalg.cholesky(q + PRIOR_PRECISION * np.eye(len(q)))
    known = np.linalg.solve(factor, gram(train, stars, root, None))
    own = sum(np.repeat((inputs[l][stars] ** 2).sum(1), K) * (grads[l][stars].reshape(-1, grads[l].shape[2]) ** 2).sum(1) for l in which)
    gamma = np.trace(np.linalg.solve(q + PRIOR_PRECISION * np.eye(len(q)), q))
    return ((own - (known**2).sum(0)) / PRIOR_PRECISION).reshape(-1, K), float(gamma)


def ratio(variances, exact):
    """Median, 5 % and 95 % of the ratio of standard deviations over stars and labels."""
    return np.quantile(np.sqrt(variances / exact), [0.5, 0.05, 0.95]).tolist()


def main():
    layers, norms = network()
    _, flux, sigma, labels, own, hashes = table("train")
    held = hashes < HOLDOUT_FRACTION
    good = sigma > 0
    count = good[held].sum(0)
    mean = np.where(good, flux, 0)[held].sum(0) / count
    variance = (np.where(good, flux - mean, 0)[held] ** 2).sum(0) / (count - 1)

    def unmasked(flux, sigma):
        return np.where(sigma > 0, flux, mean), np.where(sigma > 0, sigma**2, variance)

    train, train_variance = unmasked(flux, sigma)
    predicted, jacobian, inputs, grads = differentiate(layers, norms, train)
    residuals = labels - predicted
    noise = scatter(residuals[held], own[held])
    scale = norms["label_scale"]
    units = np.outer(scale, scale)
    precision = np.linalg.inv((noise + own[~held]) / units)

    # Layer 0: Kronecker factors. Layers 1 and 2: one dense block with their cross terms.
    a, g = inputs[0][~held], grads[0][~held]
    n = len(a)
    s_a = a.T @ a
    s_g = np.einsum("nkl,nki,nlj->ij", precision, g, g)
    kron_a, v = np.linalg.eigh(s_a)
    kron_g, u = np.linalg.eigh(s_g)
    eigenvalues = np.outer(kron_g, kron_a) / n + PRIOR_PRECISION

    def rows(inputs, grads, which):
        blocks = [np.einsum("nko,ni->nkoi", grads[l][which], inputs[l][which]).reshape(which.sum(), K, -1) for l in (1, 2)]
        return np.concatenate(blocks, 2)

    j = rows(inputs, grads, ~held)
    dense = np.einsum("nka,nkb->ab", np.einsum("nkl,nla->nka", precision, j), j) + PRIOR_PRECISION * np.eye(j.shape[2])
    inverse = np.linalg.inv(dense)

    def weights_part(inputs, grads, which):
        h = ((inputs[0][which] @ v) ** 2) @ (1 / eigenvalues).T
        turned = grads[0][which] @ u
        first = np.einsum("nki,nli,ni->nkl", turned, turned, h)
        j = rows(inputs, grads, which)
        return (first + (j @ inverse) @ j.transpose(0, 2, 1)) * units

    def flux_part(jacobian, variance):
        return np.einsum("nkd,nd,nld->nkl", jacobian, variance, jacobian)

    # The certificate: all spectra of the sums, and about 200 of the held-out ones, evenly spaced by their position in the catalogue.
    wanted = -(-COMPARED_STARS * len(held) // held.sum())
    position = np.arange(len(held))
    stars = held & (position * wanted // len(held) != (position + 1) * wanted // len(held))
    exact, gamma = exact_variances(inputs, grads, precision, [0, 1, 2], ~held, stars)
    first, _ = exact_variances(inputs, grads, precision, [0], ~held, stars)
    turned = grads[0][stars] @ u
    kfac = np.einsum("nki,nki,ni->nk", turned, turned, ((inputs[0][stars] @ v) ** 2) @ (1 / eigenvalues).T)
    weights = np.einsum("nkk->nk", weights_part(inputs, grads, stars) / units)
    seeds = np.einsum("nkl,nl->nk", precision, residuals[~held] / scale)
    fit = [np.einsum("nk,nko,ni->oi", seeds, grads[l][~held], inputs[l][~held]) for l in range(3)]
    theta = [np.concatenate([weight, bias[:, None]], 1) for weight, bias in layers]
    gradient = [PRIOR_PRECISION * t - f for t, f in zip(theta, fit)]
    rest = np.concatenate([gradient[1].ravel(), gradient[2].ravel()])
    certificate = {
        "spectra": int(n),
        "stars": int(stars.sum()),
        "effective_parameters": gamma,
        "ratio": ratio(weights, exact),
        "first_block": ratio(kfac, first),
        "gradient_norm": [float(np.sqrt((gradient[0] ** 2).sum())), float(np.sqrt(rest @ rest))],
        "newton_decrement": [
            float(np.sqrt(((u.T @ gradient[0] @ v) ** 2 / eigenvalues).sum())),
            float(np.sqrt(rest @ inverse @ rest)),
        ],
    }

    known = own[held] + flux_part(jacobian[held], train_variance[held]) + weights_part(inputs, grads, held)
    intrinsic = scatter(residuals[held], known)

    ids, flux, sigma, labels, own, _ = table("test")
    test, test_variance = unmasked(flux, sigma)
    predicted, jacobian, inputs, grads = differentiate(layers, norms, test)
    everyone = np.ones(len(test), bool)
    parts = {"cov_flux": flux_part(jacobian, test_variance), "cov_weights": weights_part(inputs, grads, everyone)}
    total = parts["cov_flux"] + parts["cov_weights"] + intrinsic
    own_variance = np.einsum("nii->ni", own)
    pulls = (labels - predicted) / np.sqrt(np.einsum("nii->ni", total) + own_variance)
    expected = {
        "conventions": "as the metadata of the output; label units, but for the blocks' log determinants (normalised units)",
        "fit": {"spectra": len(held), "held_out": int(held.sum()), "in_sums": int(n)},
        "noise": noise.tolist(),
        "intrinsic": intrinsic.tolist(),
        "log_det": [float(np.log(eigenvalues).sum()), float(np.linalg.slogdet(dense)[1])],
        "effective_parameters": [
            float((1 - PRIOR_PRECISION / eigenvalues).sum()),
            float(len(inverse) - PRIOR_PRECISION * np.trace(inverse)),
        ],
        "certificate": certificate,
        "pull_standard_deviation": pulls.std(0, ddof=1).tolist(),
        "first_10": {
            "id": ids[:10],
            "labels": predicted[:10].tolist(),
            **{name: part[:10].reshape(10, -1).tolist() for name, part in parts.items()},
        },
    }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
