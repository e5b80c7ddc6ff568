"""What is written of the command line is so: every documented command is one, and every config and group is named. And a
config keeps its parent's keys."""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mofm
from mofm import configs
from mofm.cli import _parser, main
from mofm.cli.train import GROUPS
from mofm.inference.api import Model
from mofm.training.config import Config, build_config

ROOT = Path(__file__).parent.parent
WITH_CONFIG = ("train", "finetune", "plan")
PAGES = ["README.md", "launch/README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of the code blocks of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def texts() -> dict[str, str]:
    """Where commands are documented."""
    found = {}
    for page in PAGES:
        found[page] = "\n".join(block for _, block in blocks(page))
    for path in [*(ROOT / "configs").glob("*.py"), *(ROOT / "mofm").rglob("*.py")]:
        found[str(path.relative_to(ROOT))] = ast.get_docstring(ast.parse(path.read_text())) or ""
    parser = _parser()
    verbs = next(action for action in parser._actions if action.dest == "verb").choices
    return found | {f"mofm {name} --help": verb.format_help() for name, verb in verbs.items()} | {
        "mofm --help": parser.format_help()
    }  # fmt: skip


def commands() -> list[tuple[str, str]]:
    """(where, command) of every line that begins as one, continued lines joined."""
    found = []
    for where, text in texts().items():
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(\$ )?mofm [a-z]+ [^`]*$", line) and "..." not in line:
                found.append((where, line.strip().removeprefix("$ ")))
    return found


@pytest.mark.parametrize(("where", "command"), commands())
def test_a_documented_command_is_one(where, command):
    words = shlex.split(re.split(r"(?:\s+#|\s{2,}[a-z(]| [|>&;])", command)[0])[1:]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args, rest = _parser().parse_known_args(words)
    except SystemExit:
        pytest.fail(f"{where}: {command}\n{said.getvalue()}")
    assert all(args.verb in WITH_CONFIG and re.match(r"--config\.[\w.]+=", word) for word in rest), f"{where}: {rest}"
    if name := getattr(args, "config", None):
        assert name.stem in CONFIGS or not name.parent.name, f"{where}: {name}"


def test_the_commands_were_found():
    found = commands()
    assert len(found) > 60
    assert len({command.split()[1] for _, command in found}) >= 14


@pytest.mark.parametrize("page", PAGES)
def test_a_page_links_to_what_is_there(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text)
    local = [link for pair in links for link in pair if link and not link.startswith("http")]
    assert not [link for link in local if not (ROOT / page).parent.joinpath(link).exists()]
    files = [path for path in re.findall(r"`((?:mofm|configs|launch|docs|tests)/[\w/.]+\.\w+)`", text)]
    assert not [path for path in files if not (ROOT / path).exists()]


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [page for page in PAGES[1:] if f"]({page})" not in text] == []


PYTHON = [(page, block) for page in PAGES for language, block in blocks(page) if language == "python"]


@pytest.mark.parametrize(("page", "block"), PYTHON)
def test_documented_python_calls_what_there_is(page, block):
    """Imports are there, and so are the methods of a loaded model, their arguments, and the plots."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert not [name.name for name in node.names if not hasattr(module, name.name)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            whose = ast.unparse(node.func.value)
            if whose in ("model", "mofm.load('runs/mine')"):
                signature = inspect.signature(getattr(Model, node.func.attr))
                signature.bind(None, *node.args, **{word.arg: word.value for word in node.keywords})
            if whose == "mofm.pl":
                assert callable(getattr(mofm.pl, node.func.attr))


def test_documented_python_was_found():
    assert len(PYTHON) >= 3


def test_help_of_train_names_every_config_and_group(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert ", ".join(CONFIGS) in said
    groups = {field.name: field.type for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)}
    assert {name: type_.__module__.replace(".", "/") + ".py" for name, type_ in groups.items()} == GROUPS
    assert all(f"{name} " in said and path in said for name, path in GROUPS.items())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("base", "finetune")])
def test_a_config_keeps_the_keys_of_its_parent(name):
    config = getattr(__import__(f"mofm.configs.{name}").configs, name).get_config()
    base = configs.base.get_config()
    for group in set(base) & set(config) - {"seed"}:
        assert set(base[group]) <= set(config[group]), group
    build_config(config, ["data.corpus=somewhere"])


def test_a_config_key_without_its_value_is_told_how(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--config", "small", "--workdir", "runs/x", "--config.data.corpus", "corpus/"])
    assert "write --config.data.corpus=corpus/, in one word" in capsys.readouterr().err


def test_python_m_mofm_is_mofm():
    done = subprocess.run([sys.executable, "-m", "mofm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mofm ")
