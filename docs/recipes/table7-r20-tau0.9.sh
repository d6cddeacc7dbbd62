#!/usr/bin/env bash
# Table 7, FDS with r = 20 cm and tau = 0.9: 58.79 mIoU in the paper.
export NAME=table7-r20-tau0.9 STRATEGY=hmmu LEVELS=10,50,100 WEIGHTS=0.1,0.01,0.001
export FDS=on FDS_R=0.2 FDS_TAU=0.9 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
