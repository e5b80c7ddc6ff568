#!/usr/bin/env bash
# Sets everything up and runs the main job on data that comes with it: bash launch/quickstart.sh
# Simulates cells from a known regulatory network, takes the PBMC that scanpy ships, pretrains an encoder on both, embeds
# held-out cells and writes runs/demo/report/index.html. About five minutes on two cores after the set-up.
# Killed on the way? The same command goes on.
#   PYTHON=python3.12       which interpreter (3.11 or later)
#   MOFM_VENV=.venv         where the virtual environment is made
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/setup_env.sh
source launch/setup_env.sh
exec mofm demo "$@"
