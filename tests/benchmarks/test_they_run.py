"""The benchmarks of speed still run, on a corpus too small to say anything: they are scripts that nothing else calls."""

import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ("encoder.width=16", "encoder.blocks=1", "encoder.heads=2", "encoder.ffn=24", "encoder.cell_width=8")
STEP = ("--rounds", "1", *(f"--config.{key}" for key in (*SMALL, "data.tokens=32", "data.batch_size=16")))


LIGHT = [
    ("layout.py", ("--cells", "400", "--genes", "300", "--rounds", "1"), "| lz4 | 64 | narrow |"),
]
HEAVY = [
    ("stream.py", ("--cells", "900", "--genes", "300", "--epochs", "1", "--rounds", "1"), '"share_of_ceiling": '),
    ("size.py", ("--cells", "600", "1200", "--batches", "3", "--rounds", "1"), "| 1,200 |"),
    ("step.py", STEP, "| mofm |"),
    ("grn.py", (*STEP, "--config.grn.width=8", "--genes", "300", "--tfs", "20", "--edges", "900"), "| 900 |"),
    (
        "translation.py",
        ("--tasks", "simulated", "--cells", "160", "--genes", "120"),
        "| simulated | tenth | adt to rna |",
    ),
    ("ingest.py", ("--cells", "600", "--genes", "200", "--only", "10x mtx"), "| 10x mtx, gzipped |"),
]


@pytest.mark.parametrize(
    ("script", "arguments", "row"), [*LIGHT, *(pytest.param(*one, marks=pytest.mark.slow) for one in HEAVY)]
)
def test_a_small_benchmark_prints_its_table(script, arguments, row):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert row in done.stdout
