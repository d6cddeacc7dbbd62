#!/usr/bin/env bash
# Table 5, base (MMU alone): 55.51 mIoU in the paper.
export NAME=table5-mmu STRATEGY=mmu
export FDS=off TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
