# All rounds of a campaign on scenes with true labels, in which an oracle gives the answers. few_labels.sh and study.sh
# source this file. They set
#
#   scenes, out   the scenes store; the folder that gets labels.zarr and spread.zarr
#   answers       number of answers in all rounds; if empty, one for each thousand points
#   rounds, seed  rounds after the first one; the seed of all that is drawn
#   first_score   options of `hpal score` in the first round, which scores the scenes (array)
#   score         and in the later ones, which score what was spread (array)
#   select        options of `hpal select` in the later rounds (array)
#   measure       a function that gets the number of a round, once its answers are spread
#   budget_of     a function that prints how many points a round asks for; the one below unless they have their own

number() { python3 -c 'import json, sys; value = json.load(sys.stdin)
for key in sys.argv[1:]: value = value[key]
print(value)' "$@"; }

# Sets `answers`, if it is empty, and `first`, how many of them are given before anything is known.
count_answers() {
	local points classes
	# Points and classes of the scenes to learn from.
	read -r points classes < <(hpal info "$scenes" --json | python3 -c '
import json, sys
table = json.load(sys.stdin)["table"]
print(sum(row["train"] for row in table), sum(row["train"] > 0 for row in table if row["class"] is not None))')
	[ -n "$answers" ] || answers=$(((points + 500) / 1000))
	# Some ten answers a class first: with fewer nothing is known of most classes, with more they are not well spent. A
	# quarter is left for the rounds, even if there are few answers.
	first=$((10 * classes < 3 * answers / 4 ? 10 * classes : (3 * answers + 3) / 4))
}

# What is left, in equal parts.
budget_of() { # ROUND
	echo $(((answers - clicks) / (rounds - $1 + 1)))
}

# ask COUNT STORE SEED OPTIONS...: `asked` (points), `clicks`, `labelled` (points) and `area` (m2,
# empty if unknown) grow by what it took.
ask() {
	local count=$1 store=$2 seed=$3
	shift 3
	case " $* " in *' --strategy diverse '* | *' --strategy ssdr '*) set -- "$@" --budget "$count" ;; esac
	hpal score "$store" "$@" --seed "$seed" -q |
		hpal select --budget "$count" "${select[@]}" -q |
		hpal label --oracle "$scenes" -o "$out/labels.zarr" --cost 2>"$out/label.txt" || {
		cat "$out/label.txt" >&2
		return 1
	}
	local cost='^cost: ([0-9,]+) clicks?, ([0-9,]+) points? labelled, (([0-9.e+]+) m2)?'
	[[ $(tail -n 1 "$out/label.txt") =~ $cost ]]
	asked=$((asked + count)) clicks=$((clicks + ${BASH_REMATCH[1]//,/})) labelled=$((labelled + ${BASH_REMATCH[2]//,/}))
	area=${BASH_REMATCH[4]:+$(awk "BEGIN { print $area + ${BASH_REMATCH[4]} }")}
}

spread_answers() {
	hpal spread "$out/labels.zarr" "$scenes" --alike --seed "$seed" -o "$out/spread.zarr" --overwrite -q
}

run_rounds() {
	local r count later=("${select[@]}")
	asked=0 clicks=0 labelled=0 area=0
	select=(--no-fds)
	ask "$first" "$scenes" "$seed" "${first_score[@]}"
	select=("${later[@]}")
	spread_answers
	measure 0
	for ((r = 1; r <= rounds; r++)); do
		count=$(budget_of "$r")
		[ "$count" -gt 0 ] || continue
		# Each round draws anew, where anything is drawn.
		ask "$count" "$out/spread.zarr" $((seed + 1000 * r)) "${score[@]}"
		spread_answers
		measure "$r"
	done
}
