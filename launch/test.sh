#!/usr/bin/env bash
# Sets everything up and passes the tests: bash launch/test.sh [pytest arguments]
#   --all                   those marked slow too: several processes, four omics, parity of devices, finetuning from end to end
#   PYTHON=python3.12       which interpreter (3.11 or later)
#   MOFM_VENV=.venv         where the virtual environment is made
#   MOFM_DATA=FOLDER        real data sets; tests that want one are skipped, by name, where it is absent
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/setup_env.sh
source launch/setup_env.sh dev
ruff check .
ruff format --check .
lint-imports --no-cache
# A file stays in one process: what its tests share is made once. (pytest-xdist 3.8's loadgroup groups nothing under pytest 9.)
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
