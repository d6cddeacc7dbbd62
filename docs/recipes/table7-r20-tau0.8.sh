#!/usr/bin/env bash
# Table 7, FDS with r = 20 cm and tau = 0.8 (the method): 59.29 mIoU in the paper.
export NAME=table7-r20-tau0.8 STRATEGY=hmmu LEVELS=10,50,100 WEIGHTS=0.1,0.01,0.001
export FDS=on FDS_R=0.2 FDS_TAU=0.8 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
