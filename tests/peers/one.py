"""One kind of work by one peer, timed; --save keeps what the last pass computed. Prints a JSON line.

    one.py PEER WORK --inputs FOLDER --spectra N --batch N --threads N [--repetitions N] [--save FILE]

PEER `reference` is torch by hand in float64; WORK `product` a product of two square matrices, `eigen` and `cholesky` decompositions of
--matrix, by `torch` and `scipy` (`numpy` has the same library).
"""

import argparse
import pathlib
import resource
import time

import numpy as np
from safetensors.numpy import load_file, save_file

import problem


def rows_of(peer):
    if peer.startswith("jax"):
        import jax_peer

        return jax_peer.ROWS[peer]
    if peer in ("torch by hand", "reference"):
        import by_hand

        return by_hand.ROWS
    if peer in ("torch bf16", "torch medium"):
        import by_hand

        return by_hand.LESS_EXACT[peer]
    import packages

    return packages.ROWS[peer]


def use_threads(threads):
    import threadpoolctl

    threadpoolctl.threadpool_limits(threads)
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(threads)


def product(peer, repetitions, size=3072):
    """Peak of a product of matrices, float32."""
    matrix = np.random.default_rng(0).uniform(-1, 1, (size, size)).astype(np.float32)
    if peer == "torch":
        import torch

        matrix = torch.from_numpy(matrix)
    seconds = []
    for repetition in range(repetitions + 1):
        begin = time.perf_counter()
        matrix @ matrix
        if repetition:
            seconds.append(time.perf_counter() - begin)
    problem.report("product", peer, 1, 1, seconds, gflops=2 * size**3 / np.median(seconds) / 1e9, build=build(peer))


def build(peer):
    """Which library multiplies, and which instructions it says that it uses."""
    import threadpoolctl

    found = {f"{pool['internal_api']} {pool.get('version') or ''} {pool.get('architecture') or ''}".strip() for pool in threadpoolctl.threadpool_info()}
    if peer == "torch":
        import torch

        lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
        found = {line for line in lines if "MKL" in line and "oneAPI" in line or "CPU capability" in line}
    return sorted(found)


def decompose(peer, work, file, repetitions):
    matrix = load_file(file)["matrix"]
    if peer == "torch":
        import torch

        matrix = torch.from_numpy(matrix)
        eigen = lambda: torch.linalg.eigh(matrix)[0].log().sum()

        def cholesky():
            factor = torch.linalg.cholesky(matrix)
            torch.cholesky_inverse(factor)
            return 2 * factor.diagonal().log().sum()
    else:
        import scipy.linalg

        matrix = np.asfortranarray(matrix)
        potrf, potri = scipy.linalg.get_lapack_funcs(("potrf", "potri"), (matrix,))
        eigen = lambda: np.log(scipy.linalg.eigh(matrix, driver="evd", check_finite=False)[0]).sum()

        def cholesky():
            factor, _ = potrf(matrix, lower=1)
            log_det = 2 * np.log(factor.diagonal()).sum()
            potri(factor, lower=1, overwrite_c=1)
            return log_det

    seconds = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        log_det = float({"eigen": eigen, "cholesky": cholesky}[work]())
        seconds.append(time.perf_counter() - begin)
    problem.report(work, peer, 1, 1, seconds, rows=len(matrix), log_det=log_det)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer")
    parser.add_argument("work")
    parser.add_argument("--inputs", type=pathlib.Path, required=True)
    parser.add_argument("--spectra", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--matrix", default="matrix.safetensors", help="a file of the inputs' folder")
    parser.add_argument("--save", type=pathlib.Path)
    given = parser.parse_args()
    if not given.peer.startswith("jax"):
        use_threads(given.threads)
    if given.work == "product":
        return product(given.peer, given.repetitions)
    if given.work in ("eigen", "cholesky"):
        return decompose(given.peer, given.work, given.inputs / given.matrix, given.repetitions)
    dtype = np.float64 if given.peer == "reference" else np.float32
    row = rows_of(given.peer)[given.work](problem.Problem(given.inputs, given.spectra, dtype))
    if given.peer == "reference":
        given.repetitions = 0
    seconds = problem.timed(row, given.spectra, given.batch, given.repetitions)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if given.save:
        results = row.results()
        if given.peer == "reference":
            results = results | {"near_kink": row.near_kinks()}
        save_file({name: np.ascontiguousarray(values) for name, values in results.items()}, given.save)
    problem.report(given.work, given.peer, given.spectra, given.batch, seconds, peak_rss_bytes=peak)


if __name__ == "__main__":
    main()
