"""A config says what is wrong with it, and every stage of its seed has random numbers of its own."""

import dataclasses

import pytest

from mofm.errors import InputError
from mofm.omics.simulate import AdtConfig, AtacConfig, MethylationConfig, MultiomicsConfig
from mofm.omics.simulation.config import STAGES, SimulationConfig, stream


def test_no_two_stages_share_random_numbers(small):
    first_draws = [stream(small, stage, draw).random() for stage in STAGES for draw in range(2)]
    assert len(set(first_draws)) == len(first_draws)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cells": 0}, "cells=0 is out of range"),
        ({"cells": 10.5}, "cells=10.5 is not a whole number"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": True}, "seed=True is not a whole number"),
        ({"dropout": 1.5}, "dropout=1.5 is out of range, give at least 0 and at most 1"),
        ({"library_size": float("nan")}, "library_size=nan"),
        ({"batch_effect": "strong"}, "batch_effect='strong' is not a number"),
        ({"genes": 50}, "leaves no target"),
        ({"tfs": 8}, "raise tfs or lower cell_types"),
    ],
)
def test_unusable_configs_say_why_in_one_line(changes, says):
    with pytest.raises(InputError) as error:
        SimulationConfig(**changes)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [SimulationConfig, AtacConfig, AdtConfig, MethylationConfig])
def test_every_field_is_documented_and_checked(config):
    for field in dataclasses.fields(config):
        assert field.name in config.__doc__
        with pytest.raises(InputError, match=field.name):
            config(**{field.name: None})


def test_a_field_says_whose_it_is():
    with pytest.raises(InputError, match=r"methylation\.spread=2 is out of range"):
        MethylationConfig(spread=2)


def test_more_antibodies_than_genes():
    with pytest.raises(InputError, match=r"adt\.antibodies=960 are more than the 950 genes that are no TFs"):
        MultiomicsConfig(adt=AdtConfig(antibodies=960))


def test_a_nested_config_survives_a_dict():
    config = MultiomicsConfig(
        SimulationConfig(cells=10), AtacConfig(opening=1.0), AdtConfig(lag=2), MethylationConfig()
    )
    assert MultiomicsConfig.from_dict(dataclasses.asdict(config)) == config
