#!/usr/bin/env bash
# Table 5, HMMU + FDS + TS (the whole method): 62.26 mIoU in the paper.
export NAME=table5-hmmu-fds-ts STRATEGY=hmmu LEVELS=10,50,100 WEIGHTS=0.1,0.01,0.001
export FDS=on FDS_R=0.2 FDS_TAU=0.8 TEACHER=on
exec bash "$(dirname "$0")/loop.sh" "$@"
