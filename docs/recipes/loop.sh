#!/usr/bin/env bash
# One campaign, as the paper runs it: label, train, predict, evaluate, choose the next points, and again.
#
#   bash loop.sh DATA RESULTS
#
# DATA     the raw scans: the folder that holds S3DIS's Area_1 ... Area_6, or ScanNet v2's scans/
# RESULTS  where everything goes: scenes.zarr, which all campaigns share, and a folder RESULTS/NAME/seed-SEED for each
#
# If it was stopped, the same call continues: a file that exists is not made anew. Every command is printed
# before it runs (stderr); the last output is a table of the rounds (stdout). Needs bash 4.4, python3 and hpal.
#
# These variables say what is run. Their defaults are the paper's.
#
#   NAME=campaign        of the folder
#   DATASET=s3dis        or scannet
#   VAL='Area_5/*'       scenes to validate on, as `hpal prep --val` takes them; @DATA/val_rooms.txt if that is there;
#                        ScanNet: @DATA/scannetv2_val.txt
#   FIRST=0.02%/scene    points that are drawn at random at the start; ScanNet: 4/scene
#   BUDGET=0.02%         of each selection; ScanNet: 4/scene
#   ROUNDS=5             trainings; one selection fewer
#   STRATEGY=hmmu        or mmu, lc, entropy, random, redal, ssdr
#   LEVELS=10,50,100     of hmmu, in cm
#   WEIGHTS=0.1,0.01,0.001
#   HIERARCHY=flat       or nested, as in the paper's released code
#   FDS=on               or off
#   FDS_R=0.2            in m
#   FDS_TAU=0.8
#   TEACHER=on           or off
#   PRESET=s3dis         the network and its training; ScanNet: scannet; without a GPU: small
#   STEPS=               of each training; empty: the preset's
#   TRAIN_OPTIONS=       more words for `hpal train`, such as '--precision bf16'
#   SEED=0
#   JOBS=1               processes of `prep` and `score`
#   CONTEXT=off          on: context-N/ shows the choice of round N in its scenes, as PLY and PNG
#   KEEP_PREDS=on        off: preds-N.zarr goes once it is measured and the next points are chosen
set -euo pipefail

fail() {
  printf 'loop.sh: %s\n' "$1" >&2
  exit 2
}

(($# == 2)) || fail 'call it as: bash loop.sh DATA RESULTS'
data=$1 results=$2

: "${DATASET:=s3dis}"
case $DATASET in
  s3dis)
    # A sample of rooms may name those to validate on.
    [[ ! -e $data/val_rooms.txt ]] || : "${VAL:=@$data/val_rooms.txt}"
    : "${VAL:=Area_5/*}" "${FIRST:=0.02%/scene}" "${BUDGET:=0.02%}" ;;
  scannet) : "${VAL:=@$data/scannetv2_val.txt}" "${FIRST:=4/scene}" "${BUDGET:=4/scene}" ;;
  *) fail "DATASET=$DATASET is neither s3dis nor scannet" ;;
esac
: "${NAME:=campaign}" "${ROUNDS:=5}" "${STRATEGY:=hmmu}" "${LEVELS:=10,50,100}" "${WEIGHTS:=0.1,0.01,0.001}"
: "${HIERARCHY:=flat}" "${FDS:=on}" "${FDS_R:=0.2}" "${FDS_TAU:=0.8}" "${TEACHER:=on}" "${PRESET:=$DATASET}"
: "${STEPS:=}" "${TRAIN_OPTIONS:=}" "${SEED:=0}" "${JOBS:=1}" "${CONTEXT:=off}" "${KEEP_PREDS:=on}"
for name in FDS TEACHER CONTEXT KEEP_PREDS; do
  [[ ${!name} == on || ${!name} == off ]] || fail "$name=${!name} is neither on nor off"
done

# The same in each round: the options of train, score and select.
read -ra more <<<"$TRAIN_OPTIONS"
train=(--preset "$PRESET" ${STEPS:+--steps "$STEPS"} --seed "$SEED" "${more[@]}")
[[ $TEACHER == on ]] || train+=(--supervised-only)

# Without --shard, a task of a Slurm array would score a part of the scenes only.
shard=(--shard 1/1 --jobs "$JOBS")
score=(--strategy "$STRATEGY" "${shard[@]}")
case $STRATEGY in
  hmmu) score+=(--levels "$LEVELS" --weights "$WEIGHTS" --hierarchy "$HIERARCHY") ;;
  ssdr) score+=(--budget "$BUDGET") ;;
esac

select=(--budget "$BUDGET")
if [[ $FDS == on ]]; then select+=(--fds-r "$FDS_R" --fds-tau "$FDS_TAU"); else select+=(--no-fds); fi

# The words of a command, each as a shell reads it.
words() {
  local word
  for word; do
    if [[ $word =~ [^[:alnum:]_./,:%@=-] ]]; then word=${word@Q}; fi
    printf ' %s' "$word"
  done
}

# run COMMAND...
run() {
  printf '\n$%s\n' "$(words "$@")" >&2
  "$@"
}

# into FILE COMMAND...: FILE gets the output, and is there only if all went well.
into() {
  local file=$1
  shift
  printf '\n$%s > %s\n' "$(words "$@")" "$file" >&2
  "$@" >"$file.partial"
  mv "$file.partial" "$file"
}

# pipe COMMAND... '|' COMMAND...
pipe() {
  local first=()
  while [[ $1 != '|' ]]; do
    first+=("$1")
    shift
  done
  shift
  printf '\n$%s |%s\n' "$(words "${first[@]}")" "$(words "$@")" >&2
  "${first[@]}" | "$@"
}

mkdir -p "$results/$NAME/seed-$SEED"
scenes=$results/scenes.zarr
# Where two campaigns start at once, one of them finds the store of the other.
[[ -e $scenes ]] || run hpal prep "$data" -o "$scenes" --val "$VAL" --jobs "$JOBS" || [[ -e $scenes ]]

run cd "$results/$NAME/seed-$SEED"
scenes=../../scenes.zarr

# What is there must not be taken for the result of other settings.
settings=$(for name in DATASET FIRST BUDGET STRATEGY LEVELS WEIGHTS HIERARCHY FDS FDS_R FDS_TAU TEACHER PRESET STEPS \
  TRAIN_OPTIONS SEED; do printf '%s=%s\n' "$name" "${!name}"; done)
if [[ -e settings.txt ]]; then
  diff settings.txt - <<<"$settings" >&2 || fail "$PWD was begun with other settings (<); take another NAME"
else
  printf '%s\n' "$settings" >settings.txt
fi

# Round 0: drawn in every scene.
[[ -e round-0.ply ]] || pipe hpal score "$scenes" --strategy random --seed "$SEED" "${shard[@]}" \
  '|' hpal select --budget "$FIRST" --no-fds -o round-0.ply

init=()
for ((r = 1; r <= ROUNDS; r++)); do
  if [[ ! -e model-$r.pt ]]; then
    # Answers that are there already are not added again.
    run hpal label "round-$((r - 1)).ply" --oracle "$scenes" -o labels.zarr
    run hpal train "$scenes" --labels labels.zarr -o "model-$r.pt" "${init[@]}" "${train[@]}" --resume
  fi
  init=(--init "model-$r.pt")

  measure=no choose=no
  [[ -e eval-$r.json ]] || measure=yes
  [[ -e round-$r.ply || $r -eq $ROUNDS ]] || choose=yes
  if [[ $measure$choose == *yes* && ! -e preds-$r.zarr ]]; then
    run hpal predict "model-$r.pt" "$scenes" -o "preds-$r.zarr"
  fi
  if [[ $measure == yes ]]; then
    # For the table alone: no model and no point is chosen by it.
    into "eval-$r.json" hpal eval "preds-$r.zarr" --truth "$scenes" --split val --json
  fi
  if [[ $choose == yes ]]; then
    show=()
    [[ $CONTEXT == off ]] || show=(--context "context-$r" --overwrite)
    # Each round draws anew (random, redal).
    pipe hpal score "preds-$r.zarr" "${score[@]}" --seed "$((SEED + 1000 * r))" \
      '|' hpal select "${select[@]}" "${show[@]}" -o "round-$r.ply"
  fi
  if [[ $KEEP_PREDS == off && -e round-$r.ply ]]; then
    rm -rf "preds-$r.zarr"
  fi
done

echo >&2
python3 - "$ROUNDS" <<'PYTHON' | tee table.txt
import json
import sys

print("round  labelled points  mIoU %")
for n in range(1, int(sys.argv[1]) + 1):
    with open(f"eval-{n}.json", encoding="utf-8") as file:
        result = json.load(file)
    print(f"{n:5}  {result['labelled']['points']:15}  {100 * result['grid']['miou']:6.2f}")
PYTHON
