"""A config says what is wrong with it, and every stage of its seed has random numbers of its own."""

import dataclasses

import pytest

from mofm.errors import InputError
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


def test_every_field_is_documented_and_checked():
    for field in dataclasses.fields(SimulationConfig):
        assert field.name in SimulationConfig.__doc__
        with pytest.raises(InputError, match=field.name):
            SimulationConfig(**{field.name: None})
