#!/usr/bin/env bash
# One fisherflow run on several nodes, one process a node: sbatch deploy/slurm.sh run.toml
#SBATCH --job-name=fisherflow
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
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

code=0
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    fisherflow run "$run_file" --slurm --workers "$SLURM_CPUS_PER_TASK" || code=$?

# 1, 2 and 3 say that another try would end the same. Anything else is a lost process (75) or one that was killed (128 and a signal).
case "$code" in
0 | 1 | 2 | 3) exit "$code" ;;
esac
if [ "${SLURM_RESTART_COUNT:-0}" -lt "$most_restarts" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
