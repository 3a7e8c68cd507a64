#!/usr/bin/env bash
# All that is to be learnt from a GPU, in order of value, within 25 minutes; results as text, one file a step.
#   tools/gpu_day.sh --out DIR
# NANOGPT=DIR is a clone of karpathy/nanoGPT to measure beside, AUDIT_MODEL=DIR a downloaded model to audit.
# GPU_DAY_DRY=1 runs the same commands on the CPU at toy size: do they parse and start?
# A step that fails or takes too long stops no other; summary.txt says how each ended.
set -u

out=""
case "${1:-}" in
  --out) out="${2:?--out needs a folder}" ;;
  *) sed -n '2,6p' "$0" | cut -c3- >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.." || exit 5
mkdir -p "$out" || exit 5
out="$(cd "$out" && pwd)"
runs="$out/runs"
budget=1500
begun=$SECONDS
failed=0

if [ -n "${GPU_DAY_DRY:-}" ]; then
  device=cpu; export GPU_TESTS_DEVICE=cpu
  tests=(tests/gpu -m gpu -n 0 -k "hidden_values or same_gradients")
  toy=(--n-layer 1 --n-head 1 --n-embd 16 --block-size 16 --batch-size 2 --eval-tokens 64 --threads 1 --dtype float32)
  steps=3; first=2; cell_steps=4; cohort_steps=4; blocks=(--blocks 1 --steps-per-block 1)
  whole=(--parity-steps 1 --ablation-blocks 1 --ablation-seeds 2 --steps 4 --quick)
  compile=off; forms=(off); cohorts=(1 2); doses=1e-3,1e-2; seeds=1; tokens=500; sample=20
else
  device=cuda
  tests=(tests/gpu -m gpu -n 4)
  toy=()
  steps=100; first=5; cell_steps=2000; cohort_steps=500; blocks=(--blocks 5 --steps-per-block 20)
  whole=(--ablation-blocks 1 --ablation-seeds 2 --quick)
  compile=on; forms=(off graphs); cohorts=(1 8 32 128); doses=1e-3,3e-3,1e-2,3e-2,1e-1; seeds=8; tokens=1000000
  sample=1000
fi
peers=()
[ -d "${NANOGPT:-}" ] && peers=(--peer "$NANOGPT")

# step NAME SECONDS COMMAND…: run it within its own limit and what is left of the day.
step() {
  local name=$1 limit=$2 left=$((budget - SECONDS + begun)) at=$SECONDS code
  shift 2
  if [ "$left" -le 20 ]; then
    printf '%-22s left out: the day is over\n' "$name" | tee -a "$out/summary.txt"
    return
  fi
  [ "$limit" -gt "$left" ] && limit=$left
  printf '$ %s\n' "$*" > "$out/$name.txt"
  timeout --kill-after=15 "$limit" "$@" >> "$out/$name.txt" 2>&1
  code=$?
  [ "$code" -ne 0 ] && failed=$((failed + 1))
  printf '%-22s exit %3d after %4d s\n' "$name" "$code" $((SECONDS - at)) | tee -a "$out/summary.txt"
}
mini() { local name=$1 limit=$2; shift 2; step "$name" "$limit" python -m minigpt "$@"; }
train() { local name=$1 limit=$2; shift 2; mini "train-$name" "$limit" train --corpus stdlib --out "$runs/$name" "$@"; }

: > "$out/summary.txt"
mini doctor 60 doctor --device "$device"

# 1. every path
step tests 420 python -m pytest "${tests[@]}"

# 2. real trainings, and the first losses beside the CPU's
for preset in nanogpt-cpu nanogpt-char gpt2-small; do
  form=(--preset "$preset" --tokenizer char --grad-accumulation 1 --schedule constant --warmup-steps 0)
  form+=(--log-every 1 --checkpoint-every 0 "${toy[@]}")
  train "$preset" 120 "${form[@]}" --device "$device" --steps "$steps"
  if [ "$preset" != gpt2-small ]; then
    train "$preset-on-cpu" 90 "${form[@]}" --device cpu --dtype float32 --compile off --steps "$first"
  fi
done
for run in "$runs"/*; do
  echo "$run"
  grep '"kind": "train"' "$run/metrics.jsonl" | head -n "$first"
done > "$out/first-losses.txt" 2>&1

# 3. speed, with nanoGPT (compiled, as it ships for GPUs) beside it
for preset in nanogpt-cpu nanogpt-char gpt2-small; do
  mini "bench-$preset" 240 bench gemm train instrument decode --preset "$preset" --grad-accumulation 1 \
    --device "$device" --compile "$compile" "${blocks[@]}" "${peers[@]}" "${toy[@]}" --out "$out/bench-$preset"
done
for how in "${forms[@]}"; do
  mini "bench-$how" 90 bench train --preset nanogpt-cpu,nanogpt-char --device "$device" --compile "$how" \
    "${blocks[@]}" "${toy[@]}" --out "$out/bench-$how"
done
mini sample 60 sample "$runs/nanogpt-char" --device "$device" --compile "$compile" --max-new-tokens "$sample"

# 4. cohorts: how many models an hour; the last record of a cell tells its tokens a second
for k in "${cohorts[@]}"; do
  mini "cohort-$k" 90 ablate --preset nanogpt-cpu --corpus stdlib --activations relu --seeds "$k" --cohort "$k" \
    --workers 1 --steps "$cohort_steps" --eval-every "$cohort_steps" --checkpoint-every 0 --device "$device" "${toy[@]}" \
    --cells-dir "$runs/cells-$k" --out "$runs/cohort-$k"
  for cell in "$runs/cells-$k"/*/metrics.jsonl; do
    grep '"kind": "train"' "$cell" | tail -n 1
  done > "$out/cohort-$k-last.txt" 2>&1
done

# 5. death by learning rate, as far as the time goes
mini doses 240 ablate --preset nanogpt-cpu --corpus stdlib --activations relu,gelu --vary "lr=$doses" --seeds "$seeds" \
  --cohort 32 --workers 1 --steps "$cell_steps" --device "$device" "${toy[@]}" --cells-dir "$runs/cells" --out "$out/doses"

# 6. an audit: of a downloaded model, or of the one that was trained above
mini audit 120 audit "${AUDIT_MODEL:-$runs/gpt2-small}" --text stdlib --tokens "$tokens" --device "$device" \
  --out "$out/audit"

# 7. what else `bench` measures, whole ablations included
mini bench-all 300 bench --all --preset nanogpt-cpu --device "$device" --compile "$compile" \
  "${blocks[@]}" "${whole[@]}" "${peers[@]}" "${toy[@]}" --out "$out/bench-all"

rm -rf "$runs"/*/checkpoints "$runs"/cells*
echo "$failed steps failed; $((SECONDS - begun)) s; see $out/summary.txt"
[ "$failed" -eq 0 ]
