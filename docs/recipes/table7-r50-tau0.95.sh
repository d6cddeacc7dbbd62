#!/usr/bin/env bash
# Table 7, FDS with r = 50 cm and tau = 0.95: 57.82 mIoU in the paper.
export NAME=table7-r50-tau0.95 STRATEGY=hmmu LEVELS=10,50,100 WEIGHTS=0.1,0.01,0.001
export FDS=on FDS_R=0.5 FDS_TAU=0.95 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
