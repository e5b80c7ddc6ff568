"""metrics.jsonl of a run that is resumed tells every step once."""

import json

import pytest

from mofm.training.metrics import MetricsWriter


@pytest.mark.parametrize(("resumed_at", "kept"), [(4, [0, 2, 4]), (2, [0, 2]), (0, [])])
def test_what_a_resumed_run_tells_again_is_cut(tmp_path, resumed_at, kept):
    first = MetricsWriter(tmp_path, 0)
    for step in (0, 2, 4):
        first.write(step, {"loss": 1.0})
    first.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "lo')  # killed in the middle of a line
    MetricsWriter(tmp_path, resumed_at).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == kept
