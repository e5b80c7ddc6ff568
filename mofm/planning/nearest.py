"""A config that does not fit: the nearest one that does, found by compiling it too.

Tried in the order of what they change:

    encoder.remat      dots, then full: the same numbers, up to a third more FLOPs
    mesh.fsdp          twice as many, and so on: the same numbers, more traffic between devices
    data.batch_size    half, and so on: another run; the learning rate is to be looked at again

Every try compiles, so what is expected not to fit is passed over: the state of a device is known beforehand, what else it
needs hardly changes with fsdp, and halves with the batch.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mofm.errors import InputError
from mofm.planning.chips import gibibytes
from mofm.planning.plan import Plan, Planner
from mofm.training.config import Config

MOST_TRIES = 8
"""Compilations, at most."""
HALVINGS = 8
"""Of the batch, at most."""
MARGIN = 1.1
"""What is expected to need less than this many times the memory that there is, is tried."""
REMAT = ("none", "dots", "full")

Changes = dict[str, Any]
"""Key of a config, as "encoder.remat" -> its new value."""


class Nearest(NamedTuple):
    """A config that fits: what was changed, and its plan."""

    changes: Changes
    plan: Plan


def nearest_fit(
    planner: Planner, config: Config, refused: Plan, say: Callable[[str], None] = lambda _: None
) -> Nearest | None:
    """The nearest config that fits, `refused` being the plan of one that does not; None where none was found.

    `say` is called with what was tried, a line each.
    """
    search = _Search(planner, config, refused, say)
    changes: Changes = {}
    for remat in REMAT[REMAT.index(config.encoder.remat) + 1 :]:
        changes = {"encoder.remat": remat}
        if found := search.attempt(changes):
            return found
    wider = [more for more in _wider(config, planner.topology.devices) if search.can_be(changes | more)]
    for more in wider:
        if search.may_fit(changes | more) and (found := search.attempt(changes | more)):
            return found
    if wider and search.state(changes) > refused.limit / 2:  # what a smaller batch leaves is the state
        changes = changes | wider[-1]
    for halvings in range(1, HALVINGS + 1):
        cells, rest = divmod(config.data.batch_size, 2**halvings)
        smaller = changes | {"data.batch_size": cells}
        if rest or not cells:
            break
        if search.may_fit(smaller) and (found := search.attempt(smaller)):
            return found
    return None


def changed(config: Config, changes: Changes) -> Config:
    """The config with other values."""
    for key, value in changes.items():
        group, name = key.split(".")
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{name: value})})
    return config


def _wider(config: Config, devices: int) -> Iterator[Changes]:
    """More fsdp, for less data: as far as the mesh goes."""
    mesh, fsdp = config.mesh, config.mesh.fsdp
    if fsdp < 1 or mesh.tensor < 1:
        return
    data = devices // (fsdp * mesh.tensor)
    while data % 2 == 0:
        data, fsdp = data // 2, fsdp * 2
        yield {"mesh.fsdp": fsdp} | ({} if mesh.data == -1 else {"mesh.data": data})


class _Search:
    """What was tried last, and what it needs: from that, what others are expected to need."""

    def __init__(self, planner: Planner, config: Config, refused: Plan, say: Callable[[str], None]):
        self.planner, self.config, self.limit, self.say = planner, config, refused.limit, say
        self.last, self.required, self.tries = {}, refused.required, 0

    def state(self, changes: Changes) -> float:
        """Bytes of a device's arguments."""
        return self.planner.state_bytes(changed(self.config, changes))

    def can_be(self, changes: Changes) -> bool:
        """Whether the mesh still divides the model and the batch."""
        try:
            self.state(changes)
        except InputError:
            return False
        return True

    def may_fit(self, changes: Changes) -> bool:
        """Whether it is worth a compilation."""
        if not self.can_be(changes):
            return False
        state = self.state(changes)
        if self.required is None:
            return state < self.limit
        before, now = (changed(self.config, some).data.batch_size for some in (self.last, changes))
        others = max(self.required - self.state(self.last), 0.0) * now / before
        return state + others <= MARGIN * self.limit

    def attempt(self, changes: Changes) -> Nearest | None:
        """Its plan, if it fits."""
        self.tries += 1
        if self.tries > MOST_TRIES:
            return None
        plan = self.planner.plan(changed(self.config, changes))
        needs = "more than there is" if plan.required is None else gibibytes(plan.required)
        self.say(f"{as_options(changes)}: needs {needs} of {gibibytes(plan.limit)}")
        self.last, self.required = changes, plan.required
        return Nearest(changes, plan) if plan.fits else None


def as_options(changes: Changes) -> str:
    """As on a command line."""
    return " ".join(f"--config.{key}={value}" for key, value in changes.items())
