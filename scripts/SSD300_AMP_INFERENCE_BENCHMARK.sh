#!/usr/bin/env bash
# Measures inference in mixed precision on 1 MLU or GPU, 64 images per step; --benchmark-iterations, --benchmark-warmup.
# Usage: bash scripts/SSD300_AMP_INFERENCE_BENCHMARK.sh REPO DATA DEVICE(0 MLU, 1 GPU) [flags of main.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/ssd300.sh"
ssd300 "--mode benchmark-inference --amp --ebs 64" "$@"
