#!/usr/bin/env bash
# Fingerprints of what minigpt computes: run it before and after a change that should be neutral, and compare.
#
#     tools/neutrality.sh /tmp/before      # then change the code
#     tools/neutrality.sh /tmp/after
#     diff /tmp/before/fingerprints.txt /tmp/after/fingerprints.txt
#
# Four trainings, a few minutes on two cores. Compare only what ran on one machine, with one torch and as many threads.
set -euo pipefail
source="$(cd "$(dirname "$0")/.." && pwd)"
mkdir -p "$1"
cd "$1"
export PYTHONPATH="$source"

train() { # NAME FLAGS…: train without output, unless it fails
    local name="$1"
    shift
    python "$source/train.py" "$@" > "$name.txt" 2>&1 || { cat "$name.txt"; exit 1; }
}

sha256() { python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'; }

without_seconds() { python -c 'import json, sys; r = json.load(sys.stdin); r.pop("seconds"); print(json.dumps(r))'; }

parameters() { # RUN
    python -c 'import json, sys; print(json.load(open(f"{sys.argv[1]}/summary.json"))["parameters_sha256"])' "$1"
}

train default --out runs/default --overwrite
train swiglu --out runs/swiglu --overwrite --activation swiglu --norm rmsnorm --position rope --dropout 0.1

short=(--steps 300 --eval-every 100 --checkpoint-every 100 --overwrite)
train whole --out runs/whole "${short[@]}"
rm -rf runs/resumed
python "$source/train.py" --out runs/resumed "${short[@]}" > stopped.txt 2>&1 &
until [ -f runs/resumed/checkpoints/step-00000100/manifest.json ]; do sleep 0.1; done
kill -TERM "$!"
wait "$!" || true
train resumed --resume runs/resumed

python "$source/sample.py" runs/default --prompt "The " --max-new-tokens 300 --num-samples 2 --seed 7 > sample.txt
python -m minigpt evaluate runs/default --json > evaluate.json
python -m minigpt neurons runs/default --json | without_seconds > neurons.json

rm -rf docs
cp -r "$source/docs" docs
python -m minigpt report docs/claims > /dev/null # draws Markdown and figures from ledger.json again

{
    for run in default swiglu whole resumed; do echo "parameters of $run: $(parameters "runs/$run")"; done
    for file in sample.txt evaluate.json neurons.json; do echo "$file: $(sha256 < "$file")"; done
    for file in $(find docs -name '*.md' -o -name '*.csv' -o -name '*.svg' | sort); do echo "$file: $(sha256 < "$file")"; done
} | tee fingerprints.txt
