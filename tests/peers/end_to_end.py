"""From Parquet to Parquet: rates of a run's passes over catalogues of growing size, beside the same work in memory.

    end_to_end.py --inputs FOLDER --fisherflow BINARY --bench BINARY [--spectra 4096,16384,65536] [--workers N] [--scratch FOLDER]
                  [--store s3://BUCKET/PREFIX] [--spectra-per-object N] [--one-core]

Prints Markdown. A catalogue takes 58 kB a spectrum of 7213 pixels (65,536: 3.8 GB), what a run writes of it 87 kB more where J_x is asked for.
The rate of a pass is all its spectra over all its time, what it does once included (the Hessian written, the posterior read); the marginal
rate is that of the spectra which a catalogue has beyond the one before it.

`--store` puts catalogue and output there instead of on the disk; the AWS_* variables say where that is. A server on the same machine takes its
share of the same cores, and what it keeps stays; moto reads a whole object for each range of it, so give it small ones. `--one-core` adds one worker that has one core for all it does, reading and writing too.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import uuid
from datetime import datetime

RUN_FILE = """version = 1
[network]
uri = "{network}"
layers = [{layers}]
[network.labels]
names = ["teff", "logg", "fe_h"]
units = ["K", "dex", "dex"]
mean = [4600.0, 2.4, -0.85]
scale = [520.0, 1.2, 0.78]
[catalogue]
uri = "{catalogue}/*.parquet"
id = "id"
flux = "flux"
sigma = "flux_err"
labels = ["teff", "logg", "fe_h"]
[curvature]
structure = "kfac"
[noise]
from = "holdout"
[prior]
precision = 100.0
[certificate]
spectra = 0
full_pass = false
[compute]
precision = "{precision}"
[output]
uri = "{output}"
"""
# A pass of a run, and the kind of work in memory that is the same.
PASSES = {"curvature": "fit", "predict": "weights"}


def passes(log):
    """Seconds of each pass and how many spectra it says it went over."""
    seen = {}
    for line in log.splitlines():
        fields = json.loads(line) if line.startswith("{") else {}
        if "pass" in fields and "total" in fields:
            seen.setdefault(fields["pass"], []).append((datetime.fromisoformat(fields["timestamp"]), fields["total"]))
    return {name: ((lines[-1][0] - lines[0][0]).total_seconds(), lines[0][1]) for name, lines in seen.items()}


def run(given, widths, spectra, scratch, workers, one_core=False):
    """Passes of a run over a catalogue of so many spectra, which is simulated where the run before had another, and its core seconds."""
    root = f"{given.store.rstrip('/')}/{uuid.uuid4()}" if given.store else str(scratch)
    catalogue, output = f"{root}/catalogue-{spectra}", f"{root}/output"
    if not given.store:
        shutil.rmtree(output, ignore_errors=True)
        for other in scratch.glob("catalogue-*"):
            if str(other) != catalogue:
                shutil.rmtree(other)
    if given.store or not pathlib.Path(catalogue).exists():
        simulate = [given.fisherflow, "-q", "simulate", catalogue, "--spectra", spectra, "--pixels", widths[0]]
        simulate += ["--objects", max(4, spectra // given.spectra_per_object)]
        subprocess.run([str(part) for part in simulate], check=True, stdout=subprocess.DEVNULL)
    layers = ", ".join(['"dense", "relu"'] * (len(widths) - 2) + ['"dense"'])
    text = RUN_FILE.format(network=given.inputs / "network.safetensors", layers=layers, catalogue=catalogue, output=output, precision=given.precision)
    (scratch / "run.toml").write_text(text)
    command = [given.fisherflow, "-v", "--log", "json", "run", scratch / "run.toml", "-w", workers]
    if one_core:
        command = ["taskset", "--cpu-list", min(os.sched_getaffinity(0)), *command]
    before = core_seconds()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit("\n".join(done.stderr.splitlines()[-5:]))
    return passes(done.stderr), core_seconds() - before


def core_seconds():
    """Of all processes that were started here and have ended: what a store's server takes is not among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def in_memory(given, work):
    command = [given.bench, "--inputs", given.inputs, "--work", work, "--workers", given.workers, "--spectra", given.memory_spectra]
    command += ["--precision", given.precision]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["spectra_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=pathlib.Path, required=True)
    parser.add_argument("--fisherflow", required=True)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--spectra", default="4096")
    parser.add_argument("--memory-spectra", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--scratch", type=pathlib.Path, help="default: a temporary folder")
    parser.add_argument("--store", help="catalogue and output there, for instance s3://bucket/prefix")
    parser.add_argument("--spectra-per-object", type=int, default=4096)
    parser.add_argument("--one-core", action="store_true", help="one worker on one core, too")
    given = parser.parse_args()
    given.inputs = given.inputs.resolve()
    widths = json.loads((given.inputs / "inputs.json").read_text())["widths"]
    memory = {name: in_memory(given, work) for name, work in PASSES.items()}
    where = f" on {given.store.split(':')[0]}" if given.store else ""
    print(f"From Parquet to Parquet{where}, {given.workers} workers, every layer `kfac`: spectra a second of whole passes.\n")
    columns = ["spectra", "pass", "seconds", "spectra/s", "marginal", "in memory", "share of it"]
    columns += ["one worker, one core", f"{given.workers} workers over it"] if given.one_core else []
    print("| " + " | ".join(columns) + " |")
    print("| ---: | --- |" + " ---: |" * (len(columns) - 2))
    before, used = {}, []
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        for spectra in map(int, given.spectra.split(",")):
            found, cores = run(given, widths, spectra, pathlib.Path(scratch), given.workers)
            alone = run(given, widths, spectra, pathlib.Path(scratch), 1, one_core=True)[0] if given.one_core else {}
            for name in PASSES:
                seconds, n = found[name]
                last = before.get(name)
                marginal = f"{(n - last[1]) / (seconds - last[0]):,.0f}" if last and seconds > last[0] else ""
                before[name] = (seconds, n)
                rate = n / seconds
                cells = [f"{spectra:,}", name, f"{seconds:.2f}", f"{rate:,.0f}", marginal, f"{memory[name]:,.0f}", f"{rate / memory[name]:.0%}"]
                if given.one_core:
                    slow = alone[name][1] / alone[name][0]
                    cells += [f"{slow:,.0f}", f"{rate / slow:.2f}"]
                print("| " + " | ".join(cells) + " |", flush=True)
            used.append(f"{spectra:,} spectra {cores:.0f}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\nCore seconds of whole runs, decompositions and reading included, of a store's server none: {', '.join(used)}.")
    print(f"Peak memory of any of these processes: {peak:.2f} GiB.")


if __name__ == "__main__":
    main()
