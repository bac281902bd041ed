"""fisherflow and its peers side by side: first that their results are equal, then how fast each is, turn by turn, as a Markdown table.

    compare.py --inputs FOLDER --bench BINARY --inverse BINARY [--spectra N] [--threads N] [--turns N] [--rows A,B] [--write FILE]

Every measurement is a process of its own, with a pass that is not counted before those that are; the contenders of a row take turns, and what
is compared is the median. Stars some ReLU of which is within rounding of its kink are left out, for all. A result further than 1e-4 from torch's in float64 is refused: its row has no rate, and the exit status is 1.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

HERE = pathlib.Path(__file__).resolve().parent
LARGEST_ERROR = 1e-4
OURS, BY_HAND = "fisherflow", "torch by hand"

# Kind of work, what the table calls it, and the packages that do it.
ROWS = [
    ("jacobian", "J_x, N x K x D kept", ["torch.func", "jax", "jax vmap"]),
    ("flux_covariance", "J_x C_flux J_x^T, J_x not kept", ["torch.autograd", "jax"]),
    ("diagonal", "diagonal of the GGN", ["backpack", "laplace-torch"]),
    ("kfac", "KFAC sums, exact over outputs", ["curvlinops", "backpack", "laplace-torch"]),
    ("correction", "EKFAC correction", ["curvlinops"]),
    ("weights", "weights' covariance, Kronecker bases", ["laplace-torch"]),
    ("last_two", "exact block of the last 2 layers", ["laplace-torch"]),
    ("fit", "J_x kept, its covariance, KFAC sums: one pass", []),
    ("all", "the same and the weights' covariance: one pass", []),
]
# Spectra and batch of what is too slow, or too large, for more.
FEW = {("laplace-torch", "weights"): (2, 1), ("laplace-torch", "last_two"): (8, 4)}
# What trades accuracy for speed, and the kinds of work that it is shown for.
LESS_EXACT, LESS_EXACT_ROWS = ["fisherflow bf16", "torch bf16", "torch medium"], ["jacobian", "flux_covariance"]
# The passes that `all` does at once.
PARTS = ["jacobian", "flux_covariance", "kfac", "weights"]


def needed_flop(work, widths):
    """Floating-point operations of one spectrum, those with a 0 counted: of a symmetric product half."""
    pairs, labels = list(zip(widths, widths[1:])), widths[-1]
    forward = 2 * sum(i * o for i, o in pairs)
    backward = labels * 2 * sum(i * o for i, o in pairs[1:])
    to_flux = labels * forward
    factors = sum((i + 1) ** 2 + labels * o**2 for i, o in pairs)
    # The exact block is a product of pairs of outputs by pairs of inputs, for all labels at once; within a layer half of each are enough.
    (i, o), (j, p) = ((i + 1, o) for i, o in pairs[-2:])
    half = lambda n: n * (n + 1) // 2
    last_two = 2 * (half(i) * half(o) + half(j) * half(p) + i * j * o * p)
    rotations = 2 * sum((i + 1) ** 2 + labels * o**2 + (i + 1) * o for i, o in pairs)
    return {
        "jacobian": forward + to_flux,
        "flux_covariance": forward + to_flux,
        "diagonal": forward + backward + 2 * sum((i + 1) * o for i, o in pairs),
        "kfac": forward + backward + factors,
        "correction": forward + backward + rotations,
        "weights": forward + backward + rotations,
        "last_two": forward + last_two,
        "fit": forward + to_flux + factors,
        "all": forward + to_flux + factors + rotations,
    }[work]


class Machine:
    """Runs one contender at one kind of work, each under the setting of its library that is fastest here."""

    def __init__(self, given, scratch):
        self.given, self.scratch, self.torch_setting = given, scratch, {}
        # Number of spectra near a kink, by how many there are.
        self.near_kinks = {}
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS_", "MKL_", "OMP_"))}

    def call(self, command, setting):
        limit = {"OMP_NUM_THREADS": str(self.given.threads), "OPENBLAS_NUM_THREADS": str(self.given.threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment | limit | setting)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def ours(self, work, *more, precision=None):
        given = self.given
        command = [given.bench, "--inputs", given.inputs, "--work", work, "--workers", given.threads]
        command += ["--precision", precision or given.precision, *more]
        return self.call([str(part) for part in command], {})

    def peer(self, peer, work, *more, setting=None):
        jax = {"XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if self.given.threads > 1 else 'false'}"}
        setting = setting if setting is not None else jax if peer.startswith("jax") else self.torch_setting
        command = [sys.executable, HERE / "one.py", peer, work, "--inputs", self.given.inputs, "--threads", self.given.threads, *more]
        if peer.startswith("jax") and shutil.which("taskset"):
            cores = sorted(os.sched_getaffinity(0))[: self.given.threads]
            command = ["taskset", "-c", ",".join(map(str, cores)), *command]
        return self.call([str(part) for part in command], setting)

    def run(self, contender, work, *more):
        if contender.startswith(OURS):
            return self.ours(work, *more, precision=contender.removeprefix(OURS).strip() or None)
        return self.peer(contender, work, *more)

    def sizes(self, contender, work):
        spectra, batch = FEW.get((contender, work), (self.given.spectra, self.given.batch))
        return ["--spectra", min(spectra, self.given.spectra), "--batch", batch]


def torch_settings(scratch):
    """Ways to run torch: as it is installed, with MKL told to use AVX-512, and with MKL's question about the processor's make answered."""
    settings = {"as installed": {}, "MKL_ENABLE_INSTRUCTIONS=AVX512": {"MKL_ENABLE_INSTRUCTIONS": "AVX512"}}
    flags = cpu_flags()
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if "avx512f" in flags and "GenuineIntel" not in pathlib.Path("/proc/cpuinfo").read_text() and compiler:
        library = scratch / "mkl_avx512.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "mkl_avx512.c"], check=True)
        settings["mkl_avx512.c preloaded"] = {"LD_PRELOAD": str(library)}
    return settings


def peaks(machine):
    """GFLOP/s of a product of square matrices by everyone, and the setting under which torch is fastest."""
    found, settings = [], torch_settings(machine.scratch)
    best = None
    for name, setting in settings.items():
        line = machine.peer("torch", "product", "--repetitions", 5, setting=setting)[0]
        found.append((f"torch, {name}", line["gflops"], "; ".join(line["build"])))
        if best is None or line["gflops"] > best[0] * 1.03:
            best = (line["gflops"], name, setting)
    machine.torch_setting = best[2]
    line = machine.peer("numpy", "product", "--repetitions", 5, setting={})[0]
    found.append(("numpy", line["gflops"], "; ".join(line["build"])))
    line = machine.ours("product", "--repetitions", 5)[0]
    found.append((f"{OURS}, {line['precision']}", line["gflops"], ""))
    return found, best[1]


def error_of(path, reference):
    """The largest relative error over everything that was computed: of stars away from kinks the worst one, of a matrix in the norm of its
    product."""
    worst = 0.0
    for name, values in load_file(path).items():
        wanted = reference[name][: len(values)]
        if wanted.ndim > 1 and wanted.shape == values.shape:
            away = ~reference["near_kink"][: len(values)]
            wanted, values = wanted[away], values[away]
        if wanted.shape != values.shape:
            raise SystemExit(f"{name} is {values.shape}, expected {wanted.shape}")
        axes = tuple(range(1, wanted.ndim)) if wanted.ndim > 1 else None
        norm = lambda array: np.sqrt(np.square(array).sum(axis=axes))
        worst = max(worst, float(np.max(norm(values - wanted) / norm(wanted), initial=0.0)))
    return worst


class Turns:
    """The contenders of one kind of work, turn by turn; what each computes in its first turn is compared with the reference."""

    def __init__(self, machine, work, contenders, largest_error=LARGEST_ERROR):
        self.machine, self.work, self.largest_error = machine, work, largest_error
        self.rates, self.errors, self.refused, self.once, self.references = {}, {}, [], [], {}
        for turn in range(machine.given.turns):
            for contender in contenders:
                if turn == 0 or contender in self.rates:
                    self.take(contender, first=turn == 0)
        self.median = {contender: statistics.median(rates) for contender, rates in self.rates.items()}

    def take(self, contender, first):
        machine, sizes = self.machine, self.machine.sizes(contender, self.work)
        path = machine.scratch / "saved"
        save = ["--save", path] if first else []
        try:
            line = machine.run(contender, self.work, *sizes, "--repetitions", machine.given.repetitions, *save)[0]
        except RuntimeError as error:
            return self.refuse(f"{contender}, {self.work}: did not run\n{error}")
        if first:
            self.errors[contender] = error_of(path, self.reference(contender, sizes))
            if not self.errors[contender] <= self.largest_error:
                return self.refuse(f"{contender}, {self.work}: relative error {self.errors[contender]:.1e}")
        print(f"{self.work}, {contender}: {line['spectra_per_second']:,.1f}/s, error {self.errors[contender]:.1e}", file=sys.stderr, flush=True)
        self.rates.setdefault(contender, []).append(line["spectra_per_second"])
        if "once_seconds" in line:
            self.once.append(line["once_seconds"])

    def refuse(self, why):
        print(f"refused: {why}", file=sys.stderr, flush=True)
        self.refused.append(why.splitlines()[0])

    def reference(self, contender, sizes):
        """What torch computes in float64 of the same spectra, under the definition that the contender has."""
        kind = "weights_apart" if (contender, self.work) == ("laplace-torch", "weights") else self.work
        key = (kind, sizes[1])
        if key not in self.references:
            path = self.machine.scratch / "reference"
            self.machine.peer("reference", kind, "--spectra", sizes[1], "--batch", min(256, sizes[1]), "--save", path)
            self.references[key] = load_file(path)
            self.machine.near_kinks[sizes[1]] = int(self.references[key]["near_kink"].sum())
        return self.references[key]


DECOMPOSITIONS = (
    ("eigen", "full_rank.safetensors", "eigendecomposition, of more spectra than rows"),
    ("eigen", "matrix.safetensors", "eigendecomposition, of fewer spectra than rows"),
    ("cholesky", "matrix.safetensors", "Cholesky factor and inverse"),
)


def inverses(machine):
    """Rows of the table of decompositions: seconds of each, and how far apart their determinants are."""
    given, rows = machine.given, []
    for work, matrix, title in DECOMPOSITIONS:
        found = {OURS: [], "torch": [], "scipy": []}
        for _ in range(given.inverse_repetitions):
            command = [given.inverse, "--matrix", given.inputs / matrix, "--threads", given.threads, "--work", work]
            found[OURS] += [(line["seconds"], line["log_det"]) for line in machine.call([str(part) for part in command], {})]
            for peer in ("torch", "scipy"):
                lines = machine.peer(peer, work, "--matrix", matrix, setting={} if peer == "scipy" else None)
                found[peer] += [(line["median_seconds"], line["log_det"]) for line in lines]
        seconds = {peer: statistics.median(seconds for seconds, _ in pairs) for peer, pairs in found.items()}
        wanted = found["scipy"][0][1]
        error = max(abs(log_det / wanted - 1) for pairs in found.values() for _, log_det in pairs)
        rows.append((title, seconds, error))
    return rows


def cpu_flags():
    return next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "").split()


def less_exact(flags):
    """What trades accuracy for speed here: torch's bfloat16 products take minutes a pass on a CPU that has none."""
    return [name for name in LESS_EXACT if name != "torch bf16" or {"avx512_bf16", "amx_bf16"} & set(flags)]


def machine_in_words(threads):
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    flags = cpu_flags()
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{threads} threads, {os.cpu_count()} cores of {model} ({', '.join(units)})"


def number(value):
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=pathlib.Path, required=True)
    parser.add_argument("--bench", required=True, help="the binary of crates/posterior/benches/in_memory")
    parser.add_argument("--inverse", help="that of crates/posterior/benches/inverse.rs; none: no decompositions")
    parser.add_argument("--spectra", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=3, help="processes of each contender")
    parser.add_argument("--repetitions", type=int, default=2, help="passes that are timed in each")
    parser.add_argument("--inverse-repetitions", type=int, default=1)
    parser.add_argument("--precision", default="auto", help="of fisherflow's products")
    parser.add_argument("--rows", default=",".join(work for work, _, _ in ROWS))
    parser.add_argument("--peers", help="only these packages beside torch by hand")
    parser.add_argument("--less-exact", action="store_true", help="also bfloat16, its errors shown")
    parser.add_argument("--write", type=pathlib.Path, help="the Markdown also to this file")
    parser.add_argument("--append", type=pathlib.Path, help="a Markdown file whose text goes to the end")
    given = parser.parse_args()
    given.inputs = given.inputs.resolve()
    widths = json.loads((given.inputs / "inputs.json").read_text())["widths"]
    wanted = given.rows.split(",")
    out = []

    def say(line=""):
        out.append(line)
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        machine = Machine(given, pathlib.Path(scratch))
        found, setting = peaks(machine)
        peak = max(rate for _, rate, _ in found)
        say(f"{machine_in_words(given.threads)}; network {'-'.join(map(str, widths))}, {given.spectra} simulated spectra, batches of {given.batch}.")
        say()
        say("| product of 3072 x 3072 matrices, f32 | GFLOP/s | |")
        say("| --- | ---: | --- |")
        for name, rate, build in found:
            say(f"| {name} | {rate:.0f} | {build} |")
        say()
        say(f"torch below: {setting}. Spectra a second, medians of {given.turns} turns. Share: operations a second, those with a 0 counted, over {peak:.0f} GFLOP/s.")
        say()
        say("| | fisherflow | share | torch by hand | share | best package | others | x by hand | x package | error | once, s |")
        say("| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
        rates, refused = {}, []
        for work, title, packages in ROWS:
            if work not in wanted:
                continue
            if given.peers is not None:
                packages = [package for package in packages if package in given.peers.split(",")]
            turns = Turns(machine, work, [OURS, BY_HAND, *packages])
            refused += turns.refused
            rate = rates[work] = turns.median
            once = statistics.median(turns.once) if turns.once else float("nan")
            ranked = sorted((package for package in packages if package in rate), key=lambda package: -rate[package])
            share = lambda name: f"{rate[name] * needed_flop(work, widths) / 1e9 / peak:.0%}" if name in rate else ""
            ratio = lambda name: f"{rate[OURS] / rate[name]:.2f}" if name in rate and OURS in rate else ""
            best = f"{ranked[0]} {number(rate[ranked[0]])}" if ranked else ""
            others = ", ".join(f"{package} {number(rate[package])}" for package in ranked[1:])
            cells = [number(rate.get(OURS)), share(OURS), number(rate.get(BY_HAND)), share(BY_HAND), best, others, ratio(BY_HAND)]
            cells += [ratio(ranked[0]) if ranked else "", f"{turns.errors.get(OURS, float('nan')):.1e}", f"{once:.2g}"]
            say(f"| {title} | " + " | ".join(cells) + " |")
        if "all" in rates and all(part in rates for part in PARTS):
            apart = 1 / sum(1 / max(rate for name, rate in rates[part].items() if name != OURS) for part in PARTS)
            say()
            ours = rates["all"][OURS]
            say(f"All at once against the best peers' separate passes for J_x, its covariance, KFAC sums and weights' covariance, {number(apart)} together: {ours / apart:.2f} x.")
        if machine.near_kinks:
            near = ", ".join(f"{number} of {spectra}" for spectra, number in sorted(machine.near_kinks.items()))
            say()
            say(f"Stars left out of the comparison for everyone, some ReLU of theirs within rounding of its kink in float64: {near}.")
        if given.less_exact:
            say()
            if "torch bf16" not in less_exact(cpu_flags()):
                say("torch's bfloat16 is left out: this CPU has no such products, and torch takes minutes a pass without.\n")
            say("| less exact, of whatever error | | spectra/s | error | x torch by hand, f32 |")
            say("| --- | --- | ---: | ---: | ---: |")
            for work, title, _ in ROWS:
                if work in LESS_EXACT_ROWS and work in rates:
                    turns = Turns(machine, work, less_exact(cpu_flags()), np.inf)
                    for name, rate in turns.median.items():
                        by_hand = f"{rate / rates[work][BY_HAND]:.2f}" if BY_HAND in rates[work] else ""
                        say(f"| {title} | {name} | {number(rate)} | {turns.errors[name]:.1e} | {by_hand} |")
        if given.inverse:
            say()
            say(f"| {widths[0] + 1} x {widths[0] + 1}, f64, seconds | fisherflow | torch | scipy | x scipy | log det apart by |")
            say("| --- | ---: | ---: | ---: | ---: | ---: |")
            for title, seconds, error in inverses(machine):
                say(f"| {title} | {seconds[OURS]:.3g} | {seconds['torch']:.3g} | {seconds['scipy']:.3g} | {seconds['scipy'] / seconds[OURS]:.2f} | {error:.0e} |")
                if error > LARGEST_ERROR:
                    refused.append(f"{title}: log determinants differ by {error}")
    if given.append:
        say()
        for line in given.append.read_text().splitlines():
            say(line)
    if given.write:
        given.write.write_text("# fisherflow and its peers, measured\n\nWritten by `tests/peers/run`; README.md beside this file says what is measured.\n\n" + "\n".join(out) + "\n")
    for line in refused:
        print(f"refused: {line}", file=sys.stderr)
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    main()
