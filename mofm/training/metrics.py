"""What a run says of itself: metrics.jsonl (a line an event, for programs) and TensorBoard events (for eyes)."""

import json
from pathlib import Path

from tensorboard.summary import Writer

from mofm.files import written_whole


class MetricsWriter:
    """Appends to workdir/metrics.jsonl and workdir/tensorboard.

    A resumed run cuts the lines past the step it resumes at, so that no step is written twice; one that had saved nothing yet
    begins anew, from its evaluation at step 0.
    """

    def __init__(self, workdir: Path, resume_step: int):
        self._path = Path(workdir) / "metrics.jsonl"
        if self._path.exists():
            _cut_after(self._path, resume_step or -1)
        self._file = self._path.open("a", encoding="utf-8")
        self._events = Writer(str(Path(workdir) / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line: the step and its values, floats in full precision."""
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def went_back(self, step: int) -> None:
        """Cut the lines past a step that the run goes back to."""
        self._file.close()
        _cut_after(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Flush both."""
        self._file.close()
        self._events.close()


class Silent:
    """In the place of a MetricsWriter in all processes but the first."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def went_back(self, step: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _cut_after(path: Path, step: int) -> None:
    """Keep whole lines up to `step`; a half-written last line goes too."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            break
    with written_whole(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
