# Sourced by the launchers: makes the virtual environment, installs mofm in it (editable) and activates it.
# Usage: source launch/setup_env.sh [EXTRAS], from the repository's root. Installs again only when setup.py has changed.
# shellcheck shell=bash
extras="${1:-}"
venv="${MOFM_VENV:-.venv}"
python="${PYTHON:-python3}"

if ! command -v "$python" >/dev/null; then
  echo "$python: not found. Set PYTHON to a Python of 3.11 or later." >&2
  exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "mofm needs Python 3.11 or later; $python is $("$python" --version 2>&1). Set PYTHON to another." >&2
  exit 2
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# shellcheck source=/dev/null
source "$venv/bin/activate"
stamp="$venv/.mofm-installed-${extras:-base}"
wanted="$(cksum setup.py pyproject.toml) $PWD"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  echo "installing mofm${extras:+[$extras]} into $venv (once; some minutes)" >&2
  python -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
  printf '%s' "$wanted" >"$stamp"
fi
