#!/usr/bin/env bash
# Table 6, PL + VL1,2,3,4 (200 cm with weight 0.001): 57.71 mIoU in the paper.
export NAME=table6-pl-vl1234-w0.001 STRATEGY=hmmu LEVELS=10,50,100,200 WEIGHTS=0.1,0.01,0.001,0.001
export FDS=on FDS_R=0.2 FDS_TAU=0.8 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
