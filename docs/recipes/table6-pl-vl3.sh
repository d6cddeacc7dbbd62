#!/usr/bin/env bash
# Table 6, PL + VL3 (100 cm, weight 0.001): 58.03 mIoU in the paper.
export NAME=table6-pl-vl3 STRATEGY=hmmu LEVELS=100 WEIGHTS=0.001
export FDS=on FDS_R=0.2 FDS_TAU=0.8 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
