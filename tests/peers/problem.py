"""The inputs as every peer takes them, and how every peer is timed."""

import json
import pathlib
import statistics
import time

import numpy as np
from safetensors.numpy import load_file

PRIOR_PRECISION = 1.0
# Spectra whose input Jacobian is compared.
JACOBIANS = 32


class Problem:
    """Weights, spectra and the posterior at hand as numpy arrays of one type."""

    def __init__(self, folder, spectra, dtype=np.float32):
        folder = pathlib.Path(folder)
        self.widths = json.loads((folder / "inputs.json").read_text())["widths"]
        self.names = [f"layers.{2 * layer}" for layer in range(len(self.widths) - 1)]
        weights = load_file(folder / "network.safetensors")
        self.weights = [weights[f"{name}.weight"].astype(dtype) for name in self.names]
        self.biases = [weights[f"{name}.bias"].astype(dtype) for name in self.names]
        data = load_file(folder / "spectra.safetensors")
        if len(data["flux"]) < spectra:
            raise SystemExit(f"{folder} has {len(data['flux'])} spectra, and {spectra} are asked for")
        self.flux, self.sigma, self.labels = (data[name][:spectra].astype(dtype) for name in ("flux", "sigma", "labels"))
        self.posterior = load_file(folder / "posterior.safetensors")
        self.dtype = dtype

    @property
    def n_labels(self):
        return self.widths[-1]

    def basis(self, name, side):
        """The eigenvectors of a layer's factor, one a column."""
        return self.reflection(self.posterior[f"{name}.{side}_reflector"])

    def basis_of_weights(self, name):
        """The same for a layer's inputs without the 1 of the bias."""
        return self.reflection(self.posterior[f"{name}.a_reflector"][:-1])

    def reflection(self, vector):
        unit = vector / np.linalg.norm(vector)
        return (np.eye(len(unit)) - 2 * np.outer(unit, unit)).astype(self.dtype)

    def eigenvalues(self, name):
        """[out, in + 1] in those bases."""
        g, a = (self.posterior[f"{name}.{side}_eigenvalues"] for side in ("g", "a"))
        return np.outer(g, a)

    def probed(self, matrix):
        """A large matrix times a vector: what is compared of it."""
        matrix = np.asarray(matrix)
        rows = np.array_split(matrix, max(1, matrix.size // 2**24))
        return np.concatenate([part.astype(np.float64) @ self.posterior["probe"][: matrix.shape[1]] for part in rows])


def batches(n, size):
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


def timed(row, n, size, repetitions):
    """Seconds of each pass over n spectra, after a first that is not counted; of no repetition, that one."""
    seconds = []
    for repetition in range(repetitions + 1):
        row.start()
        begin = time.perf_counter()
        for rows in batches(n, size):
            row.batch(rows)
        row.finish()
        seconds.append(time.perf_counter() - begin)
    return seconds[1:] or seconds


def report(work, peer, n, size, seconds, **more):
    median = statistics.median(seconds)
    line = {"work": work, "peer": peer, "spectra": n, "batch": size, "seconds": seconds, "median_seconds": median}
    print(json.dumps(line | {"spectra_per_second": n / median} | more), flush=True)


class Row:
    """One kind of work by one peer: `start` a pass, add a `batch`, `finish` it, and say what came out."""

    def __init__(self, problem):
        self.problem = problem

    def start(self):
        pass

    def batch(self, rows):
        raise NotImplementedError

    def finish(self):
        pass

    def results(self):
        raise NotImplementedError
