"""When a run has learned what it can: `run.patience` evaluations in a row without a lower held-out loss.

It is a pure function of the losses that metrics.jsonl holds, so a run that is resumed stops where an unbroken one does, and
one that has stopped stays so.
"""

import json
from collections.abc import Mapping
from pathlib import Path

HELDOUT = "heldout/loss"


def is_spent(losses: Mapping[int, float], patience: int) -> bool:
    """Whether the best of the losses (step -> held-out loss) is `patience` evaluations old or more; never where that is 0."""
    if not patience or not losses:
        return False
    steps = sorted(losses)
    best = min(steps, key=lambda step: (losses[step], step))
    return len(steps) - 1 - steps.index(best) >= patience


def read_losses(workdir: Path, until: int) -> dict[int, float]:
    """The held-out losses of a run by their steps, those after the step `until` left out."""
    losses, path = {}, Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return losses
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break  # a line cut short is the last
        if HELDOUT in row and row["step"] <= until:
            losses[int(row["step"])] = float(row[HELDOUT])
    return losses
