# shellcheck shell=bash
# Runs in an array task: prepares the environment that the sweep names, then keeps a worker running.
# hpoctl writes the exports above this text and the text itself unchanged, so it holds no braces to
# fill in and can be run by hand:  HPOCTL_RUN_DIR=runs/x HPOCTL_PYTHON=python3 bash slurm/worker.sh
set -eo pipefail
: "${HPOCTL_RUN_DIR:?is set by hpoctl submit}" "${HPOCTL_PYTHON:?is set by hpoctl submit}"

# Slurm's words stop here: the worker reads HPOCTL_* only.
export HPOCTL_TASK="${HPOCTL_TASK:-${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-local}}_${SLURM_ARRAY_TASK_ID:-0}}"
export HPOCTL_NODE="${SLURMD_NODENAME:-$(hostname)}"
export HPOCTL_ENDS_AT="${SLURM_JOB_END_TIME:-}" # since Slurm 23.02; else counted, and asked
export HPOCTL_RESTARTS="${SLURM_RESTART_COUNT:-0}" # how often Slurm has queued this task again
HPOCTL_ALLOCATED_AT="$(date +%s)"                  # the time that HPOCTL_SETUP takes counts too
export HPOCTL_ALLOCATED_AT

# Module files and conda's hooks use unset variables, so `set -u` would end them. A trap that the
# setup sets for its own end stays.
trap 'echo "hpoctl: resources.setup ended with exit code $?: no worker was started" >&2' EXIT
eval "${HPOCTL_SETUP:-}"
[[ $(trap -p EXIT) != *resources.setup* ]] || trap - EXIT
set +e

# slurm/container.sh stands above this where the sweep names a container.
if declare -F hpoctl_open_door >/dev/null; then
  hpoctl_open_door || exit
else
  hpoctl_run() { exec "$@"; }
fi

# This shell stays: Slurm sends the warning before the walltime to it alone (--signal=B:), and a
# worker that is killed, as by the out-of-memory killer, is started again. Its next life takes up
# the trial that this one held. The worker ends with this shell, whatever ends it.
HPOCTL_SUPERVISOR="$$ $(readlink /proc/self/ns/pid)" # a number, and where it counts
export HPOCTL_SUPERVISOR
hpoctl_walltime_s=${HPOCTL_WALLTIME_S:-}
hpoctl_worker='' hpoctl_told=''

hpoctl_pass_on() {
  [[ $1 == CONT ]] || hpoctl_told=$1
  [[ -z $hpoctl_worker ]] || kill -s "$1" "$hpoctl_worker" 2>/dev/null
}
trap 'hpoctl_pass_on TERM' TERM INT
trap 'hpoctl_pass_on USR2' USR2
trap 'hpoctl_pass_on CONT' CONT

hpoctl_lives=0 hpoctl_short_lives=0
while :; do
  hpoctl_lives=$((hpoctl_lives + 1)) hpoctl_began=$SECONDS
  if [[ -n $hpoctl_walltime_s ]]; then # counted from the start of this shell
    export HPOCTL_WALLTIME_S=$((hpoctl_walltime_s > SECONDS ? hpoctl_walltime_s - SECONDS : 1))
  fi
  # Ctrl-C is for this shell, which passes it on.
  { trap '' INT QUIT && hpoctl_run "$HPOCTL_PYTHON" -m hpoctl worker "$HPOCTL_RUN_DIR"; } &
  hpoctl_worker=$!
  [[ -z $hpoctl_told ]] || kill -s "$hpoctl_told" "$hpoctl_worker" # told to leave just before
  while kill -0 "$hpoctl_worker" 2>/dev/null; do # a signal ends the waiting, not the worker
    wait "$hpoctl_worker"
  done
  # bash remembers how it ended, but may answer once more with a signal that came before.
  for _ in 1 2 3; do
    wait "$hpoctl_worker"
    hpoctl_code=$?
    case $hpoctl_code in
      130 | 140 | 143 | 146) ;; # 128 and INT, USR2, TERM, CONT
      *) break ;;
    esac
  done

  hpoctl_worker='' # its id may be another's soon
  hpoctl_lived=$((SECONDS - hpoctl_began))
  case $hpoctl_code in
    132 | 134 | 135 | 136 | 137 | 139) ;; # 128 and ILL, ABRT, BUS, FPE, KILL, SEGV
    *) exit "$hpoctl_code" ;;
  esac
  [[ -z $hpoctl_told ]] || exit "$hpoctl_code"
  hpoctl_end="hpoctl: the worker was ended by SIG$(kill -l "$hpoctl_code") after $hpoctl_lived s"
  hpoctl_short_lives=$((hpoctl_lived < 10 ? hpoctl_short_lives + 1 : 0))
  if ((hpoctl_short_lives == 2)); then
    echo "$hpoctl_end, and so soon for the second time: it is not started again" >&2
    exit "$hpoctl_code"
  elif ((hpoctl_lives > 5)); then
    echo "$hpoctl_end, in its life $hpoctl_lives: it is not started again" >&2
    exit "$hpoctl_code"
  fi
  echo "$hpoctl_end: it is started again" >&2
done
