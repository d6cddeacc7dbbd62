#!/usr/bin/env bash
# Table 6, PL + VL1,2,3 (10, 50 and 100 cm: the method): 59.29 mIoU in the paper.
export NAME=table6-pl-vl123 STRATEGY=hmmu LEVELS=10,50,100 WEIGHTS=0.1,0.01,0.001
export FDS=on FDS_R=0.2 FDS_TAU=0.8 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
