"""Configs: the files that come with mofm load, and a typo fails at once and says what was meant."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from mofm.errors import InputError
from mofm.training.config import Config, build_config, from_dict, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("[!_]*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_opens_with_its_command(path):
    assert isinstance(load_config(path, ["data.corpus=somewhere"]), Config)
    docstring = path.read_text().split('"""')[1]
    assert "    mofm " in docstring


def test_overrides_are_typed():
    overrides = ["encoder.width=512", "optimizer.learning_rate=1", "data.holdout_datasets=['a','b']", "data.corpus=x/y"]
    config = load_config(CONFIGS[0], overrides)
    assert config.encoder.width == 512
    assert config.optimizer.learning_rate == 1.0
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.data.holdout_datasets == ("a", "b")
    assert config.data.corpus == "x/y"


def test_shares_by_name_are_typed():
    config = load_config(CONFIGS[0], ["data.corpus=c", "data.quotas={'rna': 2, 'atac+rna': 0.5}", "data.adt_tokens=40"])
    assert config.data.quotas == {"rna": 2.0, "atac+rna": 0.5}
    assert all(type(share) is float for share in config.data.quotas.values())
    assert (config.data.adt_tokens, config.data.atac_tokens) == (40, None)
    values = ConfigDict({"data": {"corpus": "c", "quotas": {"rna": 1}}})
    assert from_dict(Config, json.loads(json.dumps(build_config(values).to_dict()))).data.quotas == {"rna": 1.0}


def test_a_default_that_the_file_does_not_name_can_be_set():
    assert build_config({"data": {"corpus": "c"}}, ["optimizer.b2=0.9"]).optimizer.b2 == 0.9


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("encoder.widht=512", "'widht'.*Did you mean 'width'"),
        ("encodr.width=512", r"no 'encodr' in config\. Did you mean 'encoder'"),
        ("run.step=9", r"no 'step' in config\.run\. Did you mean 'steps'"),
        ("encoder.width=wide", "encoder.width='wide': expected int, found str"),
        ("encoder.width=1.5", "expected int, found float"),
        ("encoder=3", "is a group"),
        ("encoder.width.x=3", "is a value"),
        ("optimizer.schedule=linear", "must be one of cosine, wsd"),
        ("data.holdout_datasets=one", "expected a list"),
        ("encoder.width", "=VALUE"),
        ("encoder.heads=5", "not divisible"),
        ("optimizer.learning_rate=-1", "must be positive"),
        ("run.steps=0", "at least 1"),
        ("data.quotas=3", "data.quotas=3: expected values by name"),
        ("data.quotas={'rna':'much'}", r"data.quotas\['rna'\]='much': expected float"),
        ("data.quotas={'rnaa': 1}", "Did you mean 'rna'"),
        ("data.atac_tokens=many", "expected int"),
    ],
)
def test_a_mistake_is_named(override, said):
    with pytest.raises(InputError, match=said):
        load_config(CONFIGS[0], ["data.corpus=c", override])


def test_an_unknown_key_in_a_file_is_named(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("def get_config():\n    return {'data': {'corpus': 'c', 'batchsize': 3}}\n")
    with pytest.raises(InputError, match=r"'data\.batchsize'.*'batch_size'"):
        load_config(path)


def test_a_config_that_comes_with_mofm_is_known_by_its_name(tmp_path):
    assert load_config("small", ["data.corpus=c"]) == load_config(CONFIGS[0].with_name("small.py"), ["data.corpus=c"])
    (tmp_path / "mine").write_text("def get_config():\n    return {}\n")
    with pytest.raises(InputError, match=r"no such config file"):  # Python's files end in .py
        load_config(tmp_path / "mine")


def test_what_is_no_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such config.* called base, .*small"):
        load_config(tmp_path / "nothing.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InputError, match="get_config"):
        load_config(tmp_path / "empty.py")
    with pytest.raises(InputError, match=r"data\.corpus is not set"):
        build_config({"data": {}})


@pytest.mark.parametrize(
    ("override", "decides"),
    [
        ("data.label_key=cell_type", True),
        ("optimizer.accumulate=2", True),
        ("run.spike_factor=3.0", True),
        ("objectives.alignment.batch_weight=0.1", True),
        ("data.prefetch=5", False),
        ("run.log_every=7", False),
        ("run.rollbacks=3", False),
        ("translator.linear=False", False),  # of a part that is switched off
        ("fusion.shared=False", False),
    ],
)
def test_what_decides_the_bits_is_science(tiny, override, decides):
    assert (tiny(override).science() != tiny().science()) == decides


def test_a_config_survives_json(tiny):
    config = tiny("data.holdout_datasets=['two']")
    assert from_dict(Config, json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:\n", "SyntaxError"),
        ("import no_such_package\n", "no_such_package"),
        ("def get_config():\n    return None\n", "ConfigDict"),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'data': 3})\n",
            "group of keys",
        ),
    ],
)
def test_a_broken_config_file_is_told_in_one_line(tmp_path, text, said):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as error:
        load_config(path)
    assert "\n" not in str(error.value)
