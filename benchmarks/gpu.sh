#!/usr/bin/env bash
# What hpal does on a GPU: is it right, how fast is it, what does a training cost. At most eight minutes, no network.
#
#     benchmarks/gpu.sh [PYTHON]
#
# Wants a Python with torch for CUDA (and its Triton), and hpal or its requirements; wheels for what is missing may lie in
# $WHEELS. Every number is written to $OUT/report.txt as it comes, and a part that fails does not keep the next from its
# turn. HPAL_GPU_DEVICE=cpu tries the script itself on a machine without a GPU: a small network, few voxels, one round.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
export OUT=${OUT:-/tmp/hpal-gpu} HPAL_GPU_DEVICE=${HPAL_GPU_DEVICE:-cuda} PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$OUT"
begun=$SECONDS
# A CPU that other programs use too may take its time: there only the script is tried.
patience=1
[ "$HPAL_GPU_DEVICE" = cuda ] || patience=4

say() { echo "$*" | tee -a "$OUT/report.txt"; }

# Runs a part for at most so many seconds, if that much of the eight minutes is left.
part() {
	local name=$1 most=$(($2 * patience))
	shift 2
	local left=$((480 * patience - (SECONDS - begun)))
	if [ "$left" -lt 10 ]; then
		say "## $name: left out, no time"
		return
	fi
	say "## $name (after $((SECONDS - begun)) s)"
	# Line by line, so that what came before a failure is kept.
	timeout "$((most < left ? most : left))" "$@" > >(tee -a "$OUT/report.txt") 2> >(tee -a "$OUT/errors.txt" >&2)
	local rc=$?
	[ "$rc" = 0 ] || say "## $name: FAILED with $rc"
}

if [ -n "${WHEELS:-}" ]; then
	part wheels 60 "$python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
export TRITON_CACHE_DIR=$OUT/triton
part versions 60 "$python" benchmarks/gpu.py versions
# A kernel is compiled when it is first wanted, about a second each; here all cores do it.
part "compiling" 150 "$python" benchmarks/gpu.py compiled
part "the kernels against float64 on the CPU" 90 "$python" benchmarks/gpu.py right
small=60000 large=200000 scenes=4 size=full rounds=5
[ "$HPAL_GPU_DEVICE" = cuda ] || small=300 large=600 scenes=2 size=small rounds=1
for voxels in $small $large; do
	part "$scenes x $voxels voxels" 90 "$python" benchmarks/network.py --device "$HPAL_GPU_DEVICE" --scenes $scenes \
		--voxels "$voxels" --size $size --rounds $rounds \
		--variants torch:bf16,torch:fp16,torch:fp32,torch:tf32,minkowski:fp32 --json "$OUT/network.jsonl"
done
part "a step: launches, waits, time on the card" 60 "$python" benchmarks/gpu.py step
part "one batch, by one worker" 60 "$python" benchmarks/gpu.py batch
part "training with a teacher" 120 "$python" benchmarks/gpu.py training
say "## done after $((SECONDS - begun)) s"
