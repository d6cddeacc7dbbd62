#!/usr/bin/env bash
# Table 6, PL + VL2 (50 cm, weight 0.01): 57.43 mIoU in the paper.
export NAME=table6-pl-vl2 STRATEGY=hmmu LEVELS=50 WEIGHTS=0.01
export FDS=on FDS_R=0.2 FDS_TAU=0.8 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
