# shellcheck shell=bash
# Stands above worker.sh in the scripts of a sweep that has `resources.container`: the worker runs in
# the container, worker.sh stays outside. Images have none of Slurm's commands, so these are run here:
# the worker asks for one through a folder that both see, the door.

hpoctl_run() { # PROGRAM ARGUMENT...: in the container, in place of this process
  local words name prefix=SINGULARITYENV_
  mapfile -t words <<<"$HPOCTL_CONTAINER" # flags and image, a word a line
  [[ $hpoctl_program != */apptainer ]] || prefix=APPTAINERENV_
  # These reach the worker in spite of --cleanenv; a password is in the environment, never an argument.
  for name in "${!HPOCTL_@}" $HPOCTL_PASSED; do
    [[ ! -v $name || $name == HPOCTL_SETUP ]] || export "$prefix$name=${!name}"
  done
  exec "$hpoctl_program" exec --bind "$HPOCTL_DOOR" "${words[@]}" "$@"
}

hpoctl_open_door() { # after `resources.setup`, which may bring the program
  if ! hpoctl_program=$(command -v apptainer || command -v singularity); then
    echo "hpoctl: resources.container: neither apptainer nor singularity is on $HPOCTL_NODE:" \
      "give resources.setup the line that brings it, such as 'module load apptainer'" >&2
    return 127
  fi
  HPOCTL_DOOR=$(mktemp -d) && mkfifo "$HPOCTL_DOOR/bell" || return
  export HPOCTL_DOOR
  hpoctl_attend </dev/null >/dev/null 2>&1 &
  hpoctl_attendant=$!
  disown "$hpoctl_attendant" # bash would say that it was killed
  # A trap that the setup has set for its own end stays: then the attendant sees that we are gone.
  [[ -n $(trap -p EXIT) ]] || trap hpoctl_close_door EXIT
}

hpoctl_close_door() {
  kill -s KILL "$hpoctl_attendant" 2>/dev/null
  rm -rf "$HPOCTL_DOOR"
}

hpoctl_attend() { # runs the commands that the worker rings for
  local id
  trap - EXIT
  trap '' TERM USR2 # a worker that is told to leave has questions still
  exec 3<>"$HPOCTL_DOOR/bell"
  while [[ -d /proc/$$ ]]; do
    if read -r -t 2 -u 3 id; then hpoctl_answer "$id" 3>&- & fi
  done
  rm -rf "$HPOCTL_DOOR"
}

# The request's lines: which names of the environment to drop, which of these to keep after all, one
# variable to set or nothing, and then the command, a word a line.
hpoctl_answer() { # ID
  local request=$HPOCTL_DOOR/$1 words name
  mapfile -t words <"$request.ask"
  (
    for name in $(compgen -e); do
      [[ ! $name =~ ^(${words[0]}) || $name =~ ^(${words[1]})$ ]] || unset "$name"
    done
    [[ -z ${words[2]} ]] || export "${words[2]?}"
    [[ ${words[3]} =~ ^(squeue|sacct|scontrol|sbatch|scancel)$ ]] || exit 126
    exec "${words[@]:3}"
  ) >"$request.out" 2>"$request.err"
  echo "$?" >"$request.partial"
  mv "$request.partial" "$request.code"
}

