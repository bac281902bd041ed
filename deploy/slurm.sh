#!/usr/bin/env bash
# One fisherflow run on several nodes, one process a node: sbatch deploy/slurm.sh run.toml
#SBATCH --job-name=fisherflow
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
# --slurm listens at port 2101 of each node, whoever else is there: no other job is. For nodes that are shared see README.md.
#SBATCH --exclusive
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# SIGTERM to the processes before the time is up: they finish the groups under way, end with 75, and the job is queued again.
#SBATCH --signal=TERM@90
set -euo pipefail
run_file="${1:?usage: sbatch deploy/slurm.sh RUN.toml}"
most_restarts=8

# What the processes prove to one another; srun hands it on in the environment.
FISHERFLOW_CLUSTER_SECRET="$(head -c 32 /dev/urandom | base64 -w 0)"
export FISHERFLOW_CLUSTER_SECRET

# 1, 2 and 3 want somebody to look first, and so do 126 and 127: the program cannot be started, or is not there. Who ends with one leaves
# it here, for srun tells the highest code of all, and the others are killed for it, or give it up with 75. In the folder of sbatch, which all nodes
# see.
final="slurm-$SLURM_JOB_ID.final"
rm -f "$final"
# The trap keeps the shell; the process gets the signal too, and its code counts.
# shellcheck disable=SC2016 # the shell of the task expands it
task='trap : TERM INT
code=0
"${@:2}" || code=$?
case "$code" in 1 | 2 | 3 | 126 | 127) echo "$code" >"$1" ;; esac
exit "$code"'

code=0
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c "$task" task "$final" \
    fisherflow run "$run_file" --slurm --workers "$SLURM_CPUS_PER_TASK" || code=$?

if [ -s "$final" ]; then
    code="$(head -n 1 "$final")"
    rm -f "$final"
    exit "$code"
fi
# Another try helps after a lost process (75), and after one that was killed (128 and a signal).
if { [ "$code" = 75 ] || [ "$code" -ge 128 ]; } && [ "${SLURM_RESTART_COUNT:-0}" -lt "$most_restarts" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
