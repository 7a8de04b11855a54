#!/usr/bin/env bash
# Trains SSD300 in FP32 on 1 MLU or GPU, 32 images per device and step.
# Usage: bash scripts/SSD300_FP32_1MLU.sh REPO DATA DEVICE(0 MLU, 1 GPU) [flags of main.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/ssd300.sh"
ssd300 "--no-amp --bs 32 --warmup 300" "$@"
