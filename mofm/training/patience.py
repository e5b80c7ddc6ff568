"""When a run has learned what it can: `run.patience` evaluations in a row without a lower held-out loss; of a run whose labels
move the encoder, without labels of held-out cells predicted better.

It is a pure function of the losses that metrics.jsonl holds, so a run that is resumed stops where an unbroken one does, and
one that has stopped stays so.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from mofm.objectives.total import ObjectivesConfig

HELDOUT = "heldout/loss"
LABELS = "heldout/label_nll"


def is_spent(losses: Mapping[int, float], patience: int) -> bool:
    """Whether the best of the losses (step -> held-out loss) is `patience` evaluations old or more; never where that is 0."""
    if not patience or not losses:
        return False
    steps = sorted(losses)
    best = min(steps, key=lambda step: (losses[step], step))
    return len(steps) - 1 - steps.index(best) >= patience


def deciding(objectives: ObjectivesConfig) -> str:
    """The held-out figure by which a run's best step is chosen; the lowest is the best."""
    return LABELS if objectives.supervised_weight else HELDOUT


def read_losses(workdir: Path, until: int, figure: str = HELDOUT) -> dict[int, float]:
    """A held-out figure of a run by its steps, those after the step `until` left out."""
    losses, path = {}, Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return losses
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break  # a line cut short is the last
        if figure in row and row["step"] <= until:
            losses[int(row["step"])] = float(row[figure])
    return losses
