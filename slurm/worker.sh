# shellcheck shell=bash
# Runs in an array task: prepares the environment that the sweep names, then becomes the worker.
# hpoctl writes the exports above this text and the text itself unchanged, so it holds no braces to
# fill in and can be run by hand:  HPOCTL_RUN_DIR=runs/x HPOCTL_PYTHON=python3 bash slurm/worker.sh
set -eo pipefail
: "${HPOCTL_RUN_DIR:?is set by hpoctl submit}" "${HPOCTL_PYTHON:?is set by hpoctl submit}"

# Slurm's words stop here: the worker reads HPOCTL_* only.
export HPOCTL_TASK="${HPOCTL_TASK:-${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-local}}_${SLURM_ARRAY_TASK_ID:-0}}"
export HPOCTL_NODE="${SLURMD_NODENAME:-$(hostname)}"
export HPOCTL_ENDS_AT="${SLURM_JOB_END_TIME:-}" # since Slurm 23.02; else the worker asks squeue

# Module files and conda's hooks use unset variables, so `set -u` would end them.
eval "${HPOCTL_SETUP:-}"

# exec: Slurm sends the warning before the walltime to this process, and it must reach the worker.
exec "$HPOCTL_PYTHON" -m hpoctl worker "$HPOCTL_RUN_DIR"
