#!/bin/bash
# Replace the arithmetic by your program. Its flags come from 'command' in sweep.yaml; the same values
# are in HPOCTL_PARAM_LEARNING_RATE and so on, and as JSON in the file that HPOCTL_PARAMS names.
set -euo pipefail

while (($#)); do
  case $1 in
    --rate) rate=$2 ;;
    --layers) layers=$2 ;;
    --out) out=$2 ;;
    *) echo "unknown flag $1" >&2 && exit 2 ;;
  esac
  shift 2
done

echo "seed $HPOCTL_SEED, rate $rate, $layers layers" | tee "$out/notes.txt" # to 'hpoctl logs'
state=$out/state last=0 loss=
[[ ! -e $state ]] || read -r last loss <"$state" # it ran before, and goes on
for ((step = last + 1; step <= 3; step++)); do
  loss=$(awk -v r="$rate" -v l="$layers" -v s="$step" \
    'BEGIN { x = log(r) / log(10) + 2; print (x * x + (l - 4) * (l - 4) / 8 + 1) / s }')
  echo "{\"step\": $step, \"loss\": $loss}" # a line of JSON with a step is a report
  echo "$step $loss" >"$state.partial" && mv "$state.partial" "$state" # whole, or not at all
  [[ ! -e $HPOCTL_CHECKPOINT ]] || exit 75 # the allocation ends soon: "I am saved, call me again"
done
echo "{\"loss\": $loss}" # and one without is the result
