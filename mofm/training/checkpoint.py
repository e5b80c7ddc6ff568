"""Checkpoints of a run: the only file that imports Orbax (its v1 API, pinned to a minor in setup.py).

Saves are asynchronous and atomic (a half-written checkpoint never has its final name), every array is written by the
devices that hold it, and any mesh can restore what another saved. Kept are the newest few and the best by held-out loss.
"""

from pathlib import Path

from orbax.checkpoint import v1 as ocp

from mofm.nn.model import Params
from mofm.training.state import TrainState

HELDOUT_LOSS = "heldout_loss"


class Checkpoints:
    """The checkpoints of one run, in one directory."""

    def __init__(self, directory: Path, keep_latest: int = 1, keep_best: int = 0):
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep_latest)]
        if keep_best:
            best = policies.BestN(
                get_metric_fn=lambda metrics: metrics[HELDOUT_LOSS],
                reverse=True,  # Orbax sorts ascending and keeps the tail; the lowest loss is the best
                n=keep_best,
                keep_checkpoints_without_metrics=False,
            )
            kept.append(best)
        self._checkpointer = ocp.training.Checkpointer(
            Path(directory).absolute(),
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

    def save(self, step: int, state: TrainState, heldout_loss: float | None = None) -> None:
        """Start saving; returns once the state is copied off the devices. A step already saved is left alone."""
        if self.latest == step:
            return
        metrics = None if heldout_loss is None else {HELDOUT_LOSS: float(heldout_loss)}
        self._checkpointer.save_async(step, state._asdict(), metrics=metrics)

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state at a step, laid out as `abstract` (see `state.abstract_state`) says, whatever mesh saved it."""
        return TrainState(**self._checkpointer.load(step, abstract._asdict()))

    def restore_params(self, step: int, abstract_params: Params) -> Params:
        """The parameters alone: the optimizer's moments are not read."""
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            return ocp.load(self._checkpointer.directory / str(step), {"params": abstract_params})["params"]

    def close(self) -> None:
        """Wait for the saves under way, and release the directory."""
        self._checkpointer.close()
