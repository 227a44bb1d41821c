"""A stand-in for Apptainer, where none can be had: notes its words and runs the program.

It gives the program what Apptainer gives with `--cleanenv`, and a PATH on which there is nothing,
as images have none of Slurm's commands. Files are all there, bound or not.
"""

APPTAINER = """\
#!/bin/bash
printf '%s\\n' "$@" > apptainer-args
cat /proc/$$/cmdline > apptainer-cmdline
clean=(PATH=/nowhere "PYTHONPATH=$PYTHONPATH")
for name in "${!APPTAINERENV_@}"; do clean+=("${name#APPTAINERENV_}=${!name}"); done
shift
while [[ $1 == -* ]]; do
  [[ $1 == --bind ]] && shift
  shift
done
shift
export -n "${!APPTAINERENV_@}"
exec env -i "${clean[@]}" "$@"
"""
