#!/usr/bin/env bash
# Trains SSD300 in mixed precision on 1 MLU or GPU, 64 images per device and step.
# Usage: bash scripts/SSD300_AMP_1MLU.sh REPO DATA DEVICE(0 MLU, 1 GPU) [flags of main.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/ssd300.sh"
ssd300 "--amp --bs 64 --warmup 300" "$@"
