#!/usr/bin/env bash
# Table 6, PL (point level alone, which is MMU; with FDS): 56.68 mIoU in the paper.
export NAME=table6-pl STRATEGY=mmu
export FDS=on FDS_R=0.2 FDS_TAU=0.8 TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
