"""Some of many: all of few, from the first to the last, none twice."""

import numpy as np
import pytest

from mofm.sampling import evenly


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 5), (5, 5), (7, 5), (1_000_003, 1_000)])
def test_places_ascend_and_none_is_twice(count, most):
    places = evenly(count, most)
    assert len(places) == min(count, most)
    assert np.all(np.diff(places) > 0)


def test_few_are_all_of_them_and_many_reach_from_first_to_last():
    np.testing.assert_array_equal(evenly(4, 9), [0, 1, 2, 3])
    np.testing.assert_array_equal(evenly(9, 3), [0, 4, 8])
