#!/usr/bin/env bash
# Table 6, PL + VL1,2 (10 and 50 cm): 58.21 mIoU in the paper.
export NAME=table6-pl-vl12 STRATEGY=hmmu LEVELS=10,50 WEIGHTS=0.1,0.01
export FDS=on FDS_R=0.2 FDS_TAU=0.8 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
