#!/usr/bin/env bash
# Which points to ask about, and what that is worth: campaigns by every strategy, with several seeds, in one table.
#
#   bash study.sh ROOMS RESULTS
#
# ROOMS    a scenes store with rooms to validate on; or raw scans, which become RESULTS/scenes.zarr
# RESULTS  gets study.csv, table.md and curves.png, and a folder for each campaign:
#          rows/STRATEGY.PER/ANSWERS/seed-SEED/
#
# If it was stopped, the same call continues: a campaign that has ended is not run again, and one that was killed starts
# anew. Each worker keeps to one core. Needs bash 4.4, hpal, and a python3 that has matplotlib, like hpal's own.
#
# These variables say what is run:
#
#   ROWS=                campaigns as STRATEGY.PER, the most important first; empty: all. STRATEGY: hmmu, hmmu-nested,
#                        mmu, lc, entropy or random, each also as STRATEGY+fds, with PER point or superpoint.
#                        Besides: all-random.point (its first round is random too), redal.region, ssdr-clicks.region
#                        and ssdr-area.region (as many clicks, or as large an area, as the others), and all.point
#                        (no campaign: every label there is)
#   SEEDS='0 1 2'
#   ANSWERS=0.1%         of the points of the training rooms, or a number; several make several budgets
#   ROUNDS=4             after the first one
#   MODELS=forest        what learns from all answers in the end: forest, network, network-teacher (both from what was
#                        spread), network-points, network-points-teacher (from the answered points alone)
#   STEPS=4000           of a network's training; on one core some twenty minutes
#   VAL=                 rooms to validate on, as `hpal prep --val` takes them; @ROOMS/val_rooms.txt if that is there
#   WORKERS=2            campaigns at a time
set -euo pipefail

fail() {
	printf 'study.sh: %s\n' "$1" >&2
	exit 2
}

(($# == 2)) || fail 'call it as: bash study.sh ROOMS RESULTS'
rooms=$1 results=$2
here=$(dirname "$0")

: "${ROWS:=}" "${SEEDS:=0 1 2}" "${ANSWERS:=0.1%}" "${ROUNDS:=4}" "${MODELS:=forest}" "${STEPS:=4000}" "${WORKERS:=2}"
[[ ! -e $rooms/val_rooms.txt ]] || : "${VAL:=@$rooms/val_rooms.txt}"
: "${VAL:=}"

if [[ -z $ROWS ]]; then
	ROWS='hmmu.superpoint hmmu.point hmmu+fds.point random.superpoint all-random.point entropy.superpoint mmu.superpoint
		all.point lc.superpoint hmmu-nested.superpoint hmmu+fds.superpoint random.point entropy.point mmu.point lc.point
		hmmu-nested.point ssdr-clicks.region ssdr-area.region redal.region hmmu-nested+fds.point'
	for strategy in mmu lc entropy random; do ROWS+=" $strategy+fds.point"; done
	for strategy in hmmu-nested mmu lc entropy random; do ROWS+=" $strategy+fds.superpoint"; done
fi
read -rd '' -a rows <<<"$ROWS" || true
read -ra seeds <<<"$SEEDS"
read -ra budgets <<<"$ANSWERS"
read -ra models <<<"$MODELS"
for row in "${rows[@]}"; do
	[[ $row =~ ^((hmmu|hmmu-nested|mmu|lc|entropy|random)(\+fds)?\.(point|superpoint)|(all-random|all)\.point|(redal|ssdr-clicks|ssdr-area)\.region)$ ]] ||
		fail "ROWS: $row is no row; the head of this script says which there are"
done
for model in "${models[@]}"; do
	[[ $model =~ ^(forest|network(-points)?(-teacher)?)$ ]] ||
		fail "MODELS: $model is no model; the head of this script says which there are"
done

# Numbers as programs read them; and one thread a worker, or two workers with two threads each slow one another down.
export LC_ALL=C OMP_NUM_THREADS=1
# As a task of a Slurm array, `hpal score` would score a part of the rooms only.
unset "${!SLURM_ARRAY@}"

mkdir -p "$results/rows"
scenes=$rooms
if [[ ! -e $rooms/zarr.json ]]; then
	scenes=$results/scenes.zarr
	[[ -e $scenes ]] || hpal prep "$rooms" -o "$scenes" ${VAL:+--val "$VAL"} -q
fi

# What is there must not be taken for the result of other settings.
settings=$(printf 'ROOMS=%s\nROUNDS=%s\nSTEPS=%s' "$rooms" "$ROUNDS" "$STEPS")
if [[ -e $results/settings.txt ]]; then
	diff "$results/settings.txt" - <<<"$settings" >&2 || fail "$results was begun with other settings (<); take another RESULTS"
else
	printf '%s\n' "$settings" >"$results/settings.txt"
fi

# What killed calls left. The number at the end of a folder's name is the process that made it.
for left in "$results"/rows/*/*/{,*/}*.unfinished-*; do
	[[ ! -e $left ]] || kill -0 "${left##*-}" 2>/dev/null || rm -rf "$left"
done

# Once, before the workers would both find out that they need them.
hpal superpoints "$scenes" -q

# Sets what rounds.sh asks for.
# shellcheck source=rounds.sh
. "$here/rounds.sh"
rounds=$ROUNDS
set_row() { # ROW
	strategy=${1%.*} per=${1#*.}
	score=() select=(--no-fds) first_score=(--strategy diverse)
	[[ $strategy != *+fds ]] || select=(--fds-r 20cm --fds-tau 0.8)
	case ${strategy%+fds} in
		hmmu) ;;
		hmmu-nested) score=(--hierarchy nested) ;;
		all-random) score=(--strategy random) first_score=(--strategy random) ;;
		ssdr-*) score=(--strategy ssdr) ;;
		*) score=(--strategy "${strategy%+fds}") ;;
	esac
	[[ $per != superpoint ]] || score+=(--per superpoint)
}

# How many points a round asks for. Regions are bought by the point, and what matters is how many clicks they will take
# (50 points a click at first, then what it was) or their area, which is the number of labelled points.
budget_of() { # ROUND
	local spent=$clicks points=1 each=1
	case $strategy in
		redal | ssdr-area) spent=$labelled ;;
		ssdr-clicks)
			points=50
			((clicks == first_clicks)) || points=$((asked - first)) each=$((clicks - first_clicks)) ;;
	esac
	echo $(((answers - spent) * points / each / (rounds - $1 + 1)))
}

# Sets `used`, the processor time of all commands so far in ms. With one thread on a core of its own a campaign takes as
# long; beside other programs it takes longer, which says nothing about the campaign. It must not run in a subshell.
clock() {
	local file user system
	file=$out/times.txt
	times >"$file"
	{ read -r _ && read -r user system; } <"$file"
	used=$(awk -F '[ms ]+' '{ printf "%d", 60000 * ($1 + $3) + 1000 * ($2 + $4) }' <<<"$user $system")
}

minutes() { # MILLISECONDS
	awk "BEGIN { printf \"%.2f\", $1 / 60000 }"
}

measure_store() { # STORE SPLIT FILE
	hpal eval "$1" --truth "$scenes" --split "$2" --json -q >"$3"
}

measure() { # ROUND
	local stopped
	clock
	stopped=$used
	(($1 > 0)) || first_clicks=$clicks
	measure_store "$out/spread.zarr" val "$out/val.json"
	measure_store "$out/spread.zarr" train "$out/train.json"
	python3 "$here/study.py" add "$out/rounds.csv" strategy="$strategy" per="$per" model=spread seed="$seed" \
		budget="$budget" round="$1" clicks="$clicks" area="$area" minutes="$(minutes $((used - began)))" \
		--eval "$out/val.json" --labels "$out/train.json"
	# What measuring takes does not count.
	clock
	began=$((began + used - stopped))
}

learn() { # MODEL: it is trained on the campaign in $folder, and measured
	local model=$1 from=(--labels "$folder/labels.zarr") spread=(--spread "$folder/spread.zarr")
	local began took out turns every=() used
	[[ $strategy != all ]] || from=(--labels all) spread=() every=(points="$points")
	local network=(--steps "$STEPS")
	case $model in
		forest) network=(--model forest) ;;
		network) network+=(--preset few) ;;
		network-teacher) network+=(--preset few --teacher-after 0.5) ;;
		network-points) network+=(--preset small --supervised-only) spread=() ;;
		network-points-teacher) network+=(--preset small) spread=() ;;
	esac
	out=$folder/$model.unfinished-$BASHPID
	mkdir "$out"
	clock
	began=$used
	hpal train "$scenes" "${from[@]}" "${spread[@]}" "${network[@]}" --seed "$seed" -o "$out/model.pt" -q
	if [[ $model == forest ]]; then turns=(); else turns=(--turns 4 --smooth); fi
	hpal predict "$out/model.pt" "$scenes" "${turns[@]}" --split val -o "$out/preds.zarr" -q
	clock
	took=$(minutes $((used - began)))
	measure_store "$out/preds.zarr" val "$out/val.json"
	python3 "$here/study.py" add "$out/model.csv" strategy="$strategy" per="$per" model="$model" seed="$seed" \
		budget="$budget" minutes="$took" "${every[@]}" --eval "$out/val.json" --after "$folder/rounds.csv"
	mv "$out/model.pt" "$folder/$model.pt"
	mv "$out/model.csv" "$folder/$model.csv"
	rm -r "$out"
}

# The folder of a campaign.
folder_of() { # ROW BUDGET SEED
	echo "$results/rows/$1/$2/seed-$3"
}

has_model() { # ROW MODEL: with every label there is nothing to spread, and nothing for a teacher to add
	[[ $1 != all.point || $2 == forest || $2 == network ]]
}

is_whole() { # ROW BUDGET SEED
	local model folder
	folder=$(folder_of "$@")
	[[ -e $folder ]] || return 1
	for model in "${models[@]}"; do
		[[ -e $folder/$model.csv ]] || ! has_model "$1" "$model" || return 1
	done
}

run_row() { # ROW BUDGET SEED
	set_row "$1"
	budget=$2 seed=$3 folder=$(folder_of "$@")
	mkdir -p "$(dirname "$folder")"
	if [[ $1 == all.point ]]; then
		mkdir -p "$folder"
	elif [[ ! -e $folder ]]; then
		out=$folder.unfinished-$BASHPID
		mkdir "$out"
		clock
		began=$used
		answers=$budget
		count_answers
		run_rounds
		rm "$out"/*.json "$out"/*.txt
		[[ -e $folder ]] || mv "$out" "$folder"
	fi
	for model in "${models[@]}"; do
		[[ -e $folder/$model.csv ]] || ! has_model "$1" "$model" || learn "$model"
	done
}

# Budgets in points.
read -r points rooms_to_measure < <(hpal info "$scenes" --json | python3 -c '
import json, sys
info = json.load(sys.stdin)
print(sum(row["train"] for row in info["table"]), info["scenes"]["val"])')
((rooms_to_measure > 0)) || fail "$scenes has no rooms to measure on; make it with VAL=NAMES, or hpal prep --val"
for n in "${!budgets[@]}"; do
	[[ ${budgets[n]} != *% ]] || budgets[n]=$(awk "BEGIN { printf \"%.0f\", $points * ${budgets[n]%\%} / 100 }")
done

tasks=()
for budget in "${budgets[@]}"; do
	for row in "${rows[@]}"; do
		for seed in "${seeds[@]}"; do
			if [[ $row != all.point ]]; then
				tasks+=("$row $budget $seed")
			elif [[ $budget == "${budgets[0]}" ]]; then
				tasks+=("$row $points $seed")
			fi
		done
	done
done

# A worker takes a core out of a pipe, and puts it back when its campaign is done.
mkfifo "$results/cores.$$"
exec 3<>"$results/cores.$$"
rm "$results/cores.$$"
if command -v taskset >/dev/null; then
	mapfile -t cores < <(python3 -c 'import os; print(*sorted(os.sched_getaffinity(0)), sep="\n")')
else
	cores=(any)
fi
for ((n = 0; n < WORKERS; n++)); do echo "${cores[n % ${#cores[@]}]}" >&3; done

report() {
	python3 "$here/study.py" report "$results" "$@"
}

# Each worker is a group of processes (set -m), of which none is left when this one is stopped.
set -m
stop() {
	trap - INT TERM
	local worker
	for worker in $(jobs -rp); do kill -- "-$worker" 2>/dev/null || true; done
	wait 2>/dev/null
	exit 130
}
trap stop INT TERM

for task in "${tasks[@]}"; do
	read -r row budget seed <<<"$task"
	! is_whole "$row" "$budget" "$seed" || continue
	read -r core <&3
	report --csv-only
	(
		trap - INT TERM
		trap 'echo "$core" >&3' EXIT
		[[ $core == any ]] || taskset -cp "$core" "$BASHPID" >/dev/null
		run_row "$row" "$budget" "$seed"
		echo "$row, $budget answers, seed $seed: done" >&2
	) &
done
wait

report
missing=0
for task in "${tasks[@]}"; do
	read -r row budget seed <<<"$task"
	is_whole "$row" "$budget" "$seed" && continue
	echo "study.sh: $row, $budget answers, seed $seed: not done; the same call again does it" >&2
	missing=1
done
exit "$missing"
