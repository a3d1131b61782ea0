#!/usr/bin/env bash
# benchmarks/gpu.sh DIR: build, test and measure on a GPU; `benchmarks/gpu.sh --help` says how.
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/gpu_run.py" "$@"
