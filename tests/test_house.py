"""The house is in order: lint, format and import contracts pass, nothing is left undone or tied to one machine, and
every public thing says what it is."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("mofm", "configs", "tests", "launch", "docs")
TOP = ("README.md", "setup.py", "pyproject.toml")
SUFFIXES = {".py", ".sh", ".md", ".toml", ".html", ".yml", ".yaml", ".js", ".css", ".txt", ".cfg"}


def run(tool: str, *arguments: str) -> tuple[int, str]:
    """Run a tool over the tree; returns its exit code and what it says. Skips by name where it is not installed."""
    beside = Path(sys.executable).with_name(tool)
    command = str(beside) if beside.exists() else shutil.which(tool)
    if command is None:
        pytest.skip(f"{tool} is not installed (pip install 'mofm[dev]'): the house was NOT checked by it")
    done = subprocess.run([command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def files() -> list[Path]:
    """Every text file of the project."""
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in SUFFIXES]
    return sorted([*found, *(ROOT / name for name in TOP)])


def modules() -> list[Path]:
    return sorted(path for room in ("mofm", "configs") for path in (ROOT / room).rglob("*.py"))


def test_ruff_check():
    code, said = run("ruff", "check", "--output-format=concise", ".")
    assert code == 0, said


def test_ruff_format():
    code, said = run("ruff", "format", "--check", ".")
    assert code == 0, said


def test_import_contracts():
    code, said = run("lint-imports", "--no-cache")
    assert code == 0, said
    assert "0 broken" in said, said
    assert said.count("KEPT") >= 6, said


def test_the_tree_is_found():
    assert len(files()) > 80
    assert len(modules()) > 50


# Each is written in two halves, so that this file is not found itself.
@pytest.mark.parametrize(
    "words", ["/wo" + "rk/", "/tm" + "p/envs", "TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error"]
)
def test_nothing_is_left_undone_or_tied_to_one_machine(words):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if words in line
    ]
    assert not found, "\n".join(found)


def undocumented(tree: ast.Module, where: str) -> list[str]:
    """Public modules, classes, functions and methods without a docstring.

    A method is documented too where a class of the same module that its class derives from documents it.
    """
    missing = [] if ast.get_docstring(tree) else [where]
    said: dict[str, set[str]] = {}
    for node in filter(_is_thing, tree.body):
        members = list(filter(_is_public, node.body)) if isinstance(node, ast.ClassDef) else []
        inherited = {name for base in getattr(node, "bases", []) for name in said.get(getattr(base, "id", ""), ())}
        said[node.name] = inherited | {member.name for member in members if ast.get_docstring(member)}
        if _is_public(node):
            things = [node, *(member for member in members if member.name not in inherited)]
            missing += [f"{where}:{thing.lineno} {thing.name}" for thing in things if not ast.get_docstring(thing)]
    return missing


def _is_thing(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _is_public(node: ast.stmt) -> bool:
    return _is_thing(node) and not node.name.startswith("_")


def test_every_public_thing_says_what_it_is():
    empty = [path for path in modules() if path.name == "__init__.py" and not path.read_text().strip()]
    missing = [
        line
        for path in modules()
        if path not in empty
        for line in undocumented(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT)))
    ]
    assert not missing, "\n".join(missing)


def test_what_is_undocumented_is_found():
    source = '"""m"""\nclass A:\n    def b(self):\n        def c(): ...\n    def _d(self): ...\ndef e():\n    "says"\n'
    source += 'class F(A):\n    """f"""\n    def g(self):\n        "g"\n    def b(self): ...\n'
    source += 'class H(F):\n    """h"""\n    def g(self): ...\n'
    assert undocumented(ast.parse(source), "x") == ["x:2 A", "x:3 b", "x:12 b"]


def test_every_test_file_says_what_it_proves():
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    assert not [str(path) for path in tests if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
