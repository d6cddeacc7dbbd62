#!/usr/bin/env bash
# A whole campaign on scenes that hold their truth, which answers for the chosen points alone:
#
#   few_labels.sh SCENES OUT [--answers N] [--seed S] [--rounds R] [--network MINUTES] [--also STORE]
#
# First some answers for surfaces that stand for all that look like them, then four rounds of what HMMU finds uncertain, a superpoint
# at a time. After each round the answers are spread, which is the model of that round. In the end a forest learns from
# all that was spread, and with --network a network too, for so many minutes; then both answer together.
# --answers: in all, without it one point in a thousand. --also: another scenes store that the models predict.
# OUT gets labels.zarr, spread.zarr (the answers spread over their own scenes), preds.zarr (the models on all scenes),
# also.zarr, and results.csv.
set -euo pipefail

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
scenes=$1 out=$2
shift 2
answers='' seed=0 rounds=4 minutes=0 also=''
while [ $# -gt 0 ]; do
	[ $# -ge 2 ] || usage
	case $1 in
		--answers) answers=$2 ;;
		--seed) seed=$2 ;;
		--rounds) rounds=$2 ;;
		--network) minutes=$2 ;;
		--also) also=$2 ;;
		*) usage ;;
	esac
	shift 2
done
mkdir -p "$out"
start=$SECONDS

# shellcheck source=rounds.sh
. "$(dirname "$0")/rounds.sh"
first_score=(--strategy diverse) score=(--per superpoint) select=(--no-fds)
count_answers

echo "round,answers,seconds,split,miou,accuracy" > "$out/results.csv"
score_of() { # ROUND STORE SPLIT
	hpal eval "$2" --truth "$scenes" --split "$3" --json -q > "$out/eval.json" 2>/dev/null || return 0
	local miou accuracy labelled
	miou=$(number grid miou < "$out/eval.json") accuracy=$(number grid accuracy < "$out/eval.json")
	labelled=$(number labelled points < "$out/eval.json")
	echo "$1,$labelled,$((SECONDS - start)),$3,$miou,$accuracy" >> "$out/results.csv"
	printf '%-22s %5d answers %4d s  %-5s mIoU %.3f  accuracy %.3f\n' "$1" "$labelled" $((SECONDS - start)) "$3" "$miou" "$accuracy"
}
measure() { score_of "round $1" "$out/spread.zarr" train; }
run_rounds

learn() { # train's options, then a name
	local name=${*: -1}
	hpal train "$scenes" --labels "$out/labels.zarr" --spread "$out/spread.zarr" "${@:1:$#-1}" --seed "$seed" \
		-o "$out/$name.pt" --overwrite -q
}
answer() { # SCENES OUT: all models together
	hpal predict "$out/forest.pt" "$1" -o "$2" --overwrite -q
	[ "$minutes" != 0 ] || return 0
	mv "$2" "${2%.zarr}-forest.zarr"
	hpal predict "$out/network.pt" "$1" -o "${2%.zarr}-network.zarr" --turns 4 --smooth --overwrite -q
	hpal spread "$out/labels.zarr" "$1" --predictions "${2%.zarr}-forest.zarr,${2%.zarr}-network.zarr" -o "$2" --overwrite -q
}
learn --model forest forest
[ "$minutes" = 0 ] || learn --preset few --minutes "$minutes" network
rm -rf "$out"/preds*.zarr "$out"/also*.zarr
answer "$scenes" "$out/preds.zarr"
score_of "models" "$out/preds.zarr" val
[ -z "$also" ] || answer "$also" "$out/also.zarr"
echo "$((SECONDS - start)) s in all; a class for every point of the answered scenes: $out/spread.zarr"
