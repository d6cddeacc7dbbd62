#!/usr/bin/env bash
# Table 5, HMMU: 57.65 mIoU in the paper.
export NAME=table5-hmmu STRATEGY=hmmu LEVELS=10,50,100 WEIGHTS=0.1,0.01,0.001
export FDS=off TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
