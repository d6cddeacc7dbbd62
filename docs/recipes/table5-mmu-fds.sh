#!/usr/bin/env bash
# Table 5, FDS (on MMU): 56.68 mIoU in the paper.
export NAME=table5-mmu-fds STRATEGY=mmu
export FDS=on FDS_R=0.2 FDS_TAU=0.8 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
