"""What is said of processes that do not belong together, before any of them waits for another."""

import pytest

from mofm.errors import InputError
from mofm.parallel.processes import Processes, is_first, start, wait_for_all


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"coordinator": "host:1"}, "give all three"),
        ({"count": 2, "index": 0}, "give all three"),
        ({"coordinator": "host:1", "count": 2, "index": 2}, "counts from 0"),
        ({"coordinator": "host", "count": 2, "index": 0}, "HOST:PORT is expected"),
    ],
)
def test_half_of_an_answer_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        Processes(**given)


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, "SLURM started 4 .* number 2"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "Open MPI started 2 .* number 1"),
    ],
)
def test_several_processes_that_nobody_called_one_run(monkeypatch, environment, launcher):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=launcher):
        start(Processes())


def test_one_process_is_the_first_and_waits_for_nobody(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")  # of a batch script, outside of any step
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    start(Processes())
    assert is_first()
    wait_for_all("nobody")
