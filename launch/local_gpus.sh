#!/usr/bin/env bash
# Trains on 1 to 8 GPUs of this machine, in one process that sees them all:
#
#   bash launch/local_gpus.sh 4 --config configs/base.py --config.data.corpus=corpus/ --workdir runs/base
#   bash launch/local_gpus.sh all --config ...            every GPU that is there
#   DRY_RUN=1 bash launch/local_gpus.sh 4 --config ...    prints what it would run, and runs nothing
#
# Sets up .venv with the CUDA build of JAX first (PYTHON and MOFM_VENV as in launch/README.md; MOFM_VENV=none: mofm is
# installed already). What follows the number goes to `mofm train`. All devices are data-parallel unless the mesh says
# otherwise: --config.mesh.fsdp=4 cuts the weights four ways. Ctrl-C saves; the same command goes on.
#   CUDA_VISIBLE_DEVICES=2,3,5    of these GPUs the first N are taken
#   GPU_MEMORY=0.9                share of each GPU's memory that JAX takes
set -euo pipefail

wanted="${1:-}"
if ! [[ "$wanted" =~ ^([1-8]|all)$ ]]; then
  echo "usage: bash launch/local_gpus.sh N|all --config FILE --workdir DIR [--config.GROUP.KEY=VALUE ...]   (N: 1 to 8)" >&2
  exit 2
fi
shift
if [ -z "${DRY_RUN:-}" ] && ! command -v nvidia-smi >/dev/null; then
  echo "nvidia-smi: not found, so this machine has no NVIDIA GPU that works. On a CPU run mofm train itself." >&2
  exit 2
fi

if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null; then
  mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
else
  gpus=(0 1 2 3 4 5 6 7) # of a dry run elsewhere
fi
[ "$wanted" = all ] && wanted="${#gpus[@]}"
if [ "$wanted" -gt "${#gpus[@]}" ]; then
  echo "$wanted GPUs are asked for, and there are ${#gpus[@]} (${gpus[*]}): ask for so many, or widen CUDA_VISIBLE_DEVICES" >&2
  exit 2
fi
CUDA_VISIBLE_DEVICES="$(IFS=, && echo "${gpus[*]:0:wanted}")"
export CUDA_VISIBLE_DEVICES
export XLA_PYTHON_CLIENT_MEM_FRACTION="${GPU_MEMORY:-0.9}"

if [ -n "${DRY_RUN:-}" ]; then
  echo "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES XLA_PYTHON_CLIENT_MEM_FRACTION=$XLA_PYTHON_CLIENT_MEM_FRACTION mofm train $*"
  exit 0
fi
if [ "${MOFM_VENV:-}" != none ]; then
  here="$PWD"
  cd "$(dirname "$0")/.."
  # shellcheck source=launch/setup_env.sh
  source launch/setup_env.sh cuda
  cd "$here"
fi
exec mofm train "$@"
