#!/usr/bin/env bash
# Evaluates a checkpoint, the recipe's or ours, in mixed precision on 1 MLU or GPU, 32 images per step.
# Usage: bash scripts/SSD300_AMP_EVAL.sh REPO DATA CHECKPOINT DEVICE(0 MLU, 1 GPU) [flags of main.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/ssd300.sh"
ssd300_eval "--amp --ebs 32" "$@"
