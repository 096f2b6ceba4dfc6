#!/usr/bin/env bash
# Checks the training on a GPU against the CPU, then measures it: at most six minutes on one H100 or H200.
#
# The machine with the GPU needs Python 3.12 with torch, NumPy, pandas and Triton, and no network. What else the
# training needs (gpu_check_packages.txt) is fetched beforehand and goes there with this repository:
#
#   benchmarks/gpu_check.sh --prepare   where there is a network: fills build/gpu_check/packages. Git ignores that
#                                       folder, so carry it along by hand
#   benchmarks/gpu_check.sh             on the GPU: equality checks, then bench_device.py, the most telling parts first
#   benchmarks/gpu_check.sh --toy       on any CPU, in a minute: shows that all of it runs; with the packages installed
#                                       there is nothing to prepare
#
# device_checks.json and bench_device.json go to $OUT, else to build/gpu_check, the second after each part. PYTHON is
# the interpreter (python3). After BUDGET seconds (300) no part is begun; a line names each that is left out.
# Ends with 1 where a check or a part has failed; the others go on.
set -u
cd "$(dirname "$0")/.." || exit 1

mode=${1:-}
python=${PYTHON:-python3}
budget=${BUDGET:-300}
# What is in flight then may go on for so long.
limit=$((budget + 55))
packages=build/gpu_check/packages
megabytes_max=64

case $mode in
  "" | --toy) ;;
  --prepare)
    requirements=$(while read -r name; do
      grep -i "^$name==" requirements.lock || echo "$name is not in requirements.lock" >&2
    done <benchmarks/gpu_check_packages.txt)
    rm -rf "$packages"
    # shellcheck disable=SC2086 # one argument a package
    "$python" -m pip install --quiet --target "$packages" --no-deps --no-compile --only-binary=:all: \
      --implementation cp --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
      --platform manylinux2014_x86_64 $requirements || exit 1
    megabytes=$(du -sm "$packages" | cut -f 1)
    echo "$packages: $megabytes MB"
    [ "$megabytes" -lt "$megabytes_max" ] || { echo "more than $megabytes_max MB cannot be carried" >&2; exit 1; }
    exit 0
    ;;
  *)
    echo "gpu_check.sh: '$mode'; accepted: nothing, --toy or --prepare; remedy: see the head of this file" >&2
    exit 2
    ;;
esac

out=${OUT:-build/gpu_check}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
# Built for this Python alone.
if [ -d "$packages" ] && "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))'; then
  PYTHONPATH="$PWD/$packages:$PYTHONPATH"
fi
options=(--device cuda)
[ "$mode" = --toy ] && options=(--device cpu --toy --mission)
checks=("${options[@]}")
[ "$mode" = --toy ] && checks=(--device cpu --toy)
"$python" -c 'import sys; from importlib.util import find_spec; sys.exit(not find_spec("stable_baselines3"))' || {
  echo "gpu_check.sh: there is no stable_baselines3, and no $packages for Python 3.12; remedy: run" \
    "benchmarks/gpu_check.sh --prepare where there is a network, and carry that folder here" >&2
  exit 1
}

failed=0
timeout $((limit / 2)) "$python" benchmarks/device_checks.py "${checks[@]}" --json "$out/device_checks.json" || failed=1
echo "checked after $SECONDS s"
timeout $((limit - SECONDS)) "$python" benchmarks/bench_device.py "${options[@]}" --seconds $((budget - SECONDS)) \
  --json "$out/bench_device.json" || failed=1
echo "done after $SECONDS s"
exit $failed
