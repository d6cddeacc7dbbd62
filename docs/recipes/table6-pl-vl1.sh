#!/usr/bin/env bash
# Table 6, PL + VL1 (10 cm, weight 0.1): 57.03 mIoU in the paper.
export NAME=table6-pl-vl1 STRATEGY=hmmu LEVELS=10 WEIGHTS=0.1
export FDS=on FDS_R=0.2 FDS_TAU=0.8 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
