#!/usr/bin/env bash
# Table 2, MMU on MinkowskiNet, 0.1 % labelled: 55.5 mIoU in the paper.
export NAME=table2-mmu STRATEGY=mmu
export FDS=off TEACHER=off
exec bash "$(dirname "$0")/loop.sh" "$@"
