"""Blocks that are made ahead come in order, with their errors, and are not made for no one."""

import pytest

from mofm.omics.ahead import read_ahead


def test_all_come_in_order():
    assert list(read_ahead(iter(range(100)))) == list(range(100))


def test_an_error_comes_in_its_place():
    def blocks():
        yield 1
        yield 2
        raise ValueError("third")

    seen = []
    with pytest.raises(ValueError, match="third"):
        seen.extend(read_ahead(blocks()))
    stream = read_ahead(blocks())
    assert [next(stream), next(stream)] == [1, 2]


def test_closing_makes_no_more_than_one_that_nobody_asked_for():
    made = []

    def blocks():
        for number in range(100):
            made.append(number)
            yield number

    stream = read_ahead(blocks())
    next(stream)
    stream.close()
    assert made in ([0, 1], [0, 1, 2])
