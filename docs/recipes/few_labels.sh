#!/usr/bin/env bash
# A whole campaign on scenes with true labels, which an oracle looks up at the chosen points only:
#
#   few_labels.sh SCENES OUT [--answers N] [--seed S] [--rounds R] [--network MINUTES] [--also STORE]
#
# Round 0 asks about superpoints that represent many others. Four more rounds (or --rounds R) ask about the superpoints
# that HMMU finds uncertain. After each round the answers are spread to all points, which takes the place of a model.
# In the end a forest is trained on the spread answers. With --network, two networks are trained on them too, both at the
# same time and for so many minutes. The probabilities of all models are then combined. Two networks with different seeds
# make different errors, so their mean is better than one network that is trained on all cores.
# --answers: how many in all; without it, one for each thousand points of the training scenes. --also: another scenes
# store, for which the models predict classes too.
# OUT gets labels.zarr, spread.zarr (the spread answers), preds.zarr (what the models predict for all scenes of SCENES),
# also.zarr (what they predict for --also), and results.csv.
set -euo pipefail

usage() { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
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
	hpal train "$scenes" --labels "$out/labels.zarr" --spread "$out/spread.zarr" "${@:1:$#-1}" -o "$out/$name.pt" --overwrite -q
}
networks=()
[ "$minutes" = 0 ] || networks=(network-1 network-2)
# together COMMAND: runs COMMAND once for each network, with the network's name as the last word. All of these run at the
# same time, each on its share of the cores. Each is a group of processes (set -m), of which none is left when this script
# is stopped.
together() {
	local name pid pids=() threads=$((($(nproc) + 1) / 2))
	[ ${#networks[@]} -gt 0 ] || return 0
	set -m
	for name in "${networks[@]}"; do
		(export OMP_NUM_THREADS=$threads && "$@" "$name") &
		pids+=($!)
	done
	set +m
	# shellcheck disable=SC2064 # these processes, not those of a later call
	trap "kill -- ${pids[*]/#/-} 2>/dev/null || true" EXIT
	for pid in "${pids[@]}"; do wait "$pid"; done
	trap - EXIT
}
learn_network() { # NAME
	learn --preset few --minutes "$minutes" --seed $((seed + 1000 * (${1##*-} - 1))) "$1"
}
answer_network() { # SCENES OUT NAME
	hpal predict "$out/$3.pt" "$1" -o "${2%.zarr}-$3.zarr" --turns 4 --smooth --overwrite -q
}
answer() { # SCENES OUT LABELS: all models together
	local name predictions=${2%.zarr}-forest.zarr
	hpal predict "$out/forest.pt" "$1" -o "$2" --overwrite -q
	[ ${#networks[@]} -gt 0 ] || return 0
	mv "$2" "$predictions"
	together answer_network "$1" "$2"
	for name in "${networks[@]}"; do predictions+=,${2%.zarr}-$name.zarr; done
	hpal spread "$3" "$1" --predictions "$predictions" -o "$2" --overwrite -q
}
learn --model forest --seed "$seed" forest
together learn_network
rm -rf "$out"/preds*.zarr "$out"/also*.zarr
answer "$scenes" "$out/preds.zarr" "$out/labels.zarr"
score_of "models" "$out/preds.zarr" val
[ -z "$also" ] || answer "$also" "$out/also.zarr" none
echo "$((SECONDS - start)) s in all; a class for every point of the answered scenes: $out/spread.zarr"
