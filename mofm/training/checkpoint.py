"""Checkpoints of a run: the only file that imports Orbax (its v1 API, pinned to a minor in setup.py).

Saves are asynchronous and atomic (a half-written checkpoint never has its final name), every array is written by the
devices that hold it, and any mesh can restore what another saved. Kept are the newest few, the best by held-out loss, and of
a run that may go back the newest of those that it can go back to.
"""

import logging
import shutil
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from mofm.errors import InputError
from mofm.nn.model import Params
from mofm.parallel.processes import is_first, wait_for_all
from mofm.training.state import TrainState

HELDOUT_LOSS = "heldout_loss"
LOSSES = "losses"
LEAST_SHARED_BYTES = 2**20
"""A slice of an array that all devices hold is written by each of them where it is this large; a smaller one costs more to cut
(a program each, compiled at the first save: a fifth of a short run on eight devices) than to write."""
_log = logging.getLogger("mofm")


class Checkpoints:
    """The checkpoints of one run, in one directory. `keep_every`: the newest whose step is a multiple of it is kept too."""

    def __init__(self, directory: Path, keep_latest: int = 1, keep_best: int = 0, keep_every: int | None = None):
        self._open = partial(self._checkpointer_of, directory, keep_latest, keep_best, keep_every)
        self._checkpointer = self._open()

    @staticmethod
    def _checkpointer_of(
        directory: Path, keep_latest: int, keep_best: int, keep_every: int | None
    ) -> ocp.training.Checkpointer:
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep_latest)]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every, max_to_keep=1))
        if keep_best:
            best = policies.BestN(
                get_metric_fn=lambda metrics: metrics[HELDOUT_LOSS],
                reverse=True,  # Orbax sorts ascending and keeps the tail; the lowest loss is the best
                n=keep_best,
                keep_checkpoints_without_metrics=False,
            )
            kept.append(best)
        context = ocp.Context()
        context.array.saving.min_slice_bytes_for_replica_parallel = LEAST_SHARED_BYTES
        return ocp.training.Checkpointer(
            Path(directory).absolute(),
            context=context,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            # When to save is the loop's decision. The default policy would skip a save while another is under way.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        )

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints that are kept, ascending."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the lowest held-out loss; the newest where none was evaluated; None without any."""
        scored = [(c.metrics[HELDOUT_LOSS], c.step) for c in self._checkpointer.checkpoints if c.metrics]
        return min(scored)[1] if scored else self.latest

    def save(
        self, step: int, state: TrainState, heldout_loss: float | None = None, losses: list[float] | None = None
    ) -> None:
        """Start saving; returns once the state is copied off the devices. A step already saved is left alone.

        `losses` of the steps before lie beside the state, for `losses`.
        """
        if self.latest == step:
            return
        metrics = None if heldout_loss is None else {HELDOUT_LOSS: float(heldout_loss)}
        notes = None if losses is None else {LOSSES: losses}
        self._checkpointer.save_async(step, _as_dict(state), metrics=metrics, custom_metadata=notes)

    def losses(self, step: int) -> list[float]:
        """The losses that were saved with a step; none where there were none."""
        return (self._checkpointer.metadata(step).custom_metadata or {}).get(LOSSES, [])

    def forget_after(self, step: int) -> None:
        """Remove what was saved after a step: the run goes another way from there."""
        self._checkpointer.close()  # waits for saves under way
        wait_for_all(f"checkpoints after {step} are closed")
        for path in self._checkpointer.directory.iterdir() if is_first() else ():
            if path.name.isdecimal() and int(path.name) > step:
                shutil.rmtree(path)
        wait_for_all(f"checkpoints after {step} are gone")
        self._checkpointer = self._open()

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state at a step, laid out as `abstract` (see `state.abstract_state`) says, whatever mesh saved it."""
        return TrainState(**self._checkpointer.load(step, _as_dict(abstract)))

    def restore_newest(self, abstract: TrainState, damaged: Path) -> tuple[TrainState, int]:
        """The newest state that can be read, and its step. Those after it are moved to `damaged`, with a warning each.

        Raises:
          InputError: there are some, and none can be read.
        """
        for step in reversed(self.steps):
            try:
                return self.restore(step, abstract), step
            except (ValueError, OSError, KeyError) as error:
                reason = str(error).splitlines()[0][:200]
            _log.warning(
                "checkpoint %s cannot be read (%s): moved to %s, going on from the one before", step, reason, damaged
            )
            if is_first():
                damaged.mkdir(exist_ok=True)
                shutil.move(self._checkpointer.directory / str(step), damaged / f"{step}-{uuid.uuid4().hex[:8]}")
            wait_for_all(f"checkpoint {step} was moved")
            self._checkpointer.close()
            self._checkpointer = self._open()  # it knows its checkpoints from when it was opened
        raise InputError(
            f"{self._checkpointer.directory}: none of its checkpoints can be read; they are in {damaged}. Restore the "
            "directory from a copy, or begin anew in another --workdir"
        )

    def restore_params(self, step: int, abstract_params: Params) -> Params:
        """The parameters alone: the optimizer's moments are not read."""
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            return ocp.load(self._checkpointer.directory / str(step), {"params": abstract_params})["params"]

    def close(self) -> None:
        """Wait for the saves under way, and release the directory."""
        self._checkpointer.close()


def _as_dict(state: TrainState) -> dict[str, Any]:
    """What of a state is written: all that it has."""
    return {name: leaf for name, leaf in state._asdict().items() if leaf is not None}
