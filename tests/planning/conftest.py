"""A config that compiles in seconds, and needs no corpus."""

import pytest

from mofm.planning.shapes import NO_CORPUS
from mofm.training.config import build_config


@pytest.fixture(scope="session")
def small():
    """A function (overrides...) -> Config of a model of 3 blocks on 32 cells."""

    def config(*overrides: str):
        sizes = {"width": 64, "blocks": 3, "heads": 2, "ffn": 128, "cell_width": 32, "bins": 6}
        values = {"data": {"batch_size": 32, "tokens": 32}, "encoder": sizes, "mesh": {"data": -1, "fsdp": 2}}
        return build_config(values, list(overrides), corpus=NO_CORPUS)

    return config
