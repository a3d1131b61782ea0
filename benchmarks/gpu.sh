#!/usr/bin/env bash
# What a GPU has to say about this repository, in one go: builds it, runs the GPU tests of the operators, measures those
# that pass, and leaves the ledger's rows and a report in DIR. Nothing is downloaded or installed.
#
#   benchmarks/gpu.sh DIR
#
# Needs Python with torch, triton, numpy, pytest and pybind11, CMake, ninja and nvcc. PYTHON names the interpreter,
# PYASD_GPU_SECONDS the time for all of it (default 480). The exit code is 0 only when everything that ran went well.
set -uo pipefail

[ $# -eq 1 ] || { echo "usage: benchmarks/gpu.sh DIR" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
python=${PYTHON:-python3}
limit=${PYASD_GPU_SECONDS:-480}
failed=0
PYASD_COMMIT=${PYASD_COMMIT:-$(git -C "$root" describe --always --dirty=+ 2>/dev/null || echo unknown)}
export PYASD_COMMIT OMP_WAIT_POLICY=passive

left() { echo $((limit - SECONDS)); }
least() { [ "$1" -lt "$2" ] && echo "$1" || echo "$2"; }
say() { echo "== $* ($(left) s left)" | tee -a "$out/log.txt"; }
stop() { echo "gpu.sh: $*" | tee -a "$out/log.txt" >&2; exit 1; }
: >"$out/log.txt"

# -- build: a copy of the Python files beside fresh extensions, so that nothing has to be installed --------------------
tree=$out/tree
rm -rf "$tree" && mkdir -p "$tree"
cp -r "$root/pyasd" "$root/tests" "$root/benchmarks" "$root/pyproject.toml" "$tree" || stop "can't copy into $tree"
cp -r "$root/kernels" "$tree/pyasd/kernels"
rm -f "$tree"/pyasd/*.so

architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '. ')
case $architecture in
  '' | *[!0-9]*) architectures=() ;;                                       # no GPU here: all of them
  90) architectures=(-DCMAKE_CUDA_ARCHITECTURES=90a-real) ;;
  *) architectures=("-DCMAKE_CUDA_ARCHITECTURES=$architecture-real") ;;
esac
cuda=AUTO
command -v nvcc >/dev/null && cuda=ON
say "build, CUDA $cuda ${architectures[*]:-for every architecture}"
timeout "$(least 200 "$(left)")" bash -e -c '
  cmake -S "$1" -B "$2/build" -G Ninja -DPYASD_CUDA="$3" -DCMAKE_BUILD_TYPE=Release \
    -Dpybind11_DIR="$("$4" -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$("$4" -c "import sys; print(sys.executable)")" "${@:5}"
  cmake --build "$2/build"
' build "$root" "$out" "$cuda" "$python" "${architectures[@]}" >"$out/build.txt" 2>&1 ||
  stop "the build failed or took too long; the end of $out/build.txt: $(tail -15 "$out/build.txt")"
cp "$out"/build/_*.so "$tree/pyasd/" || stop "the build left no extension in $out/build"

export PYTHONPATH=$tree${PYTHONPATH:+:$PYTHONPATH}
cd "$tree" || exit 1
"$python" - <<'PYTHON' >>"$out/log.txt" 2>&1 || stop "the built package can't be used: $(tail -3 "$out/log.txt")"
import os, sys, pyasd, torch
from pyasd.backends import available, cuda
if not pyasd.__file__.startswith(os.environ["PYTHONPATH"].split(":")[0]):
    sys.exit(f"another pyasd is in the way, {pyasd.__file__}: give PYTHON an environment without it")
found = available()
print(*(f"backend {name}: {reason or 'ready'}" for name, reason in found.items()), sep="\n")
if found["cuda"] is None:
    print("backend cuda, hidden layers:", cuda.hidden_layers_obstacle(torch.device("cuda", 0)) or "ready")
    print("backend cuda, wgmma:", cuda.warpgroups_obstacle(torch.device("cuda", 0)) or "ready")
PYTHON
say "built; $(grep -h '^backend' "$out/log.txt" | paste -sd';')"
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  stop "no CUDA device: torch finds none, so nothing can be tested or measured here"
nvidia-smi >"$out/nvidia-smi.txt" 2>&1

# -- tests: processes side by side for each operator and backend, since Triton compiles its kernels on the way -----------
mkdir -p "$out/tests"
rm -f "$out"/tests/*
seconds=$(least 230 $(($(left) - 170)))
say "tests, $seconds s at most"
declare -A running=()
start() {  # name, tests to choose, files
  : >"$out/tests/$1.xml"  # stays empty when the tests don't end: then there are no figures
  timeout "$seconds" "$python" -m pytest -q -rs -p no:cacheprovider -m gpu -k "$2" --junitxml "$out/tests/$1.xml" "${@:3}" \
    >"$out/tests/$1.txt" 2>&1 &
  running[$1]=$!
}
for backend in cuda triton; do
  chosen=$backend
  [ "$backend" = cuda ] && chosen="cuda and not triton"
  start "log_mel-$backend" "$chosen" tests/ops/test_log_mel.py
  start "mixture-$backend-values" "$chosen and values_and_gradients" tests/ops/test_mixture.py
  start "mixture-$backend-others" "$chosen and not values_and_gradients" tests/ops/test_mixture.py
  start "group_made-$backend" "$chosen" tests/ops/test_group_made.py tests/test_gpu.py
done
for name in "${!running[@]}"; do
  wait "${running[$name]}"
  code=$?
  [ $code -eq 0 ] || failed=1
  echo "$name: $(tail -1 "$out/tests/$name.txt") (exit code $code)" | tee -a "$out/log.txt"
done

# -- figures -------------------------------------------------------------------------------------------------------------
seconds=$(($(left) - 45))
say "benchmarks, $seconds s"
timeout $((seconds + 30)) "$python" -m benchmarks.gpu "$out" --tests "$out/tests" --seconds "$seconds" 2>&1 | tee -a "$out/log.txt"
[ "${PIPESTATUS[0]}" -eq 0 ] || failed=1

# -- the sanitizer, in what time is left ------------------------------------------------------------------------------------
if [ "$(left)" -gt 20 ]; then
  say "compute-sanitizer"
  timeout "$(left)" "$python" -m pytest -q -rs -p no:cacheprovider -m gpu tests/test_sanitizer.py >"$out/tests/sanitizer.txt" 2>&1
  code=$?
  [ $code -eq 0 ] || [ $code -eq 124 ] || failed=1
  echo "sanitizer: $(tail -1 "$out/tests/sanitizer.txt") (exit code $code; 124 is out of time)" | tee -a "$out/log.txt"
fi
say "done, $([ $failed -eq 0 ] && echo 'all went well' || echo 'something FAILED'): $out/report.md, $out/ledger.csv"
exit $failed
