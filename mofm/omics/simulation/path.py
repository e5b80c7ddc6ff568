"""A differentiation path: cells that are on their way from one attractor to the next.

A signal drives the master TFs of the next type up and those of the present type down, strongly enough to throw the
switches, and lets go; the network carries the other TFs along and settles in the next attractor. A cell left its
station at its own time and is seen when it has come to its place, so cells at one place differ by their noise.

Choices and their cost: the path is one line through its types in their order, without branches. A place on it is
measured by the length of the noise-free way (Euclidean, over all TFs), not by time, so that cells spread evenly instead
of piling up where the network is slow. A cell's type is that of the nearer station.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mofm.errors import InputError
from mofm.omics.simulation.config import SimulationConfig
from mofm.omics.simulation.network import Network, next_states

_DRIVE = 12.0  # input to a switched TF, at switch_strength 1; a master that is on holds itself by about 7
DRIVEN_STEPS, _FREE_STEPS = 100, 100  # the signal is on for 10 time constants


class Path(NamedTuple):
    """The way from each station of the path to the next; a leg is one of them.

    Attributes:
      drive_JT: float64, what the signal adds to the input of each TF during the first `DRIVEN_STEPS`.
      way_JM: float64, the share of the leg's length that is behind after each time step (the first is step 0).
    """

    drive_JT: np.ndarray
    way_JM: np.ndarray

    def leg(self, place_N: np.ndarray) -> np.ndarray:
        """The leg that each place (0 at the first station, 1 at the second, ...) lies on."""
        return np.minimum(place_N.astype(np.int64), len(self.way_JM) - 1)

    def steps(self, place_N: np.ndarray) -> np.ndarray:
        """The time steps since the leg's first station after which the noise-free way has come to each place."""
        leg_N = self.leg(place_N)
        return (self.way_JM[leg_N] < (place_N - leg_N)[:, None]).sum(axis=1)


def find_path(config: SimulationConfig, network: Network, attractors_CT: np.ndarray) -> Path:
    """The path through the config's `path_types`.

    Raises:
      InputError: the signal does not carry a cell from one of the stations to the next.
    """
    programs_CT = network.programs_CT[: config.path_types].astype(np.float64)
    drive_JT = config.switch_strength * _DRIVE * np.diff(programs_CT, axis=0)
    ways, unused = [], np.random.default_rng(0)  # there is no noise
    for leg, drive_T in enumerate(drive_JT):
        states = [attractors_CT[leg][:, None]]
        for step in range(DRIVEN_STEPS + _FREE_STEPS):
            drive_TN = drive_T[:, None] if step < DRIVEN_STEPS else 0.0
            states.append(next_states(network, states[-1], 0.0, unused, drive_TN))
        if np.abs(states[-1][:, 0] - attractors_CT[leg + 1]).max() > 0.01:
            raise InputError(
                f"simulation: cells of seed={config.seed} cannot differentiate from type_{leg + 1} to type_{leg + 2}: "
                "give another seed or fewer path_types"
            )
        length = np.linalg.norm(np.diff(np.hstack(states), axis=1), axis=0).cumsum()
        ways.append(np.concatenate([[0.0], length / length[-1]]))
    return Path(drive_JT, np.array(ways))


def travel(
    network: Network,
    path: Path,
    place_N: np.ndarray,
    state_TN: np.ndarray,
    state_noise: float,
    rng: np.random.Generator,
    follow: Callable[[np.ndarray, np.ndarray], None],
) -> np.ndarray:
    """TF activities (TFs x cells) of cells that left their leg's station at `state_TN`, seen at their places.

    Cells whose place is NaN stay as they are. `follow` is shown the states and the places of the cells that moved,
    after each time step.
    """
    state_TN, drive_TN = state_TN.copy(), np.zeros_like(state_TN)
    steps_N = np.zeros(len(place_N), dtype=np.int64)
    travellers = np.flatnonzero(~np.isnan(place_N))
    steps_N[travellers] = path.steps(place_N[travellers])
    drive_TN[:, travellers] = path.drive_JT[path.leg(place_N[travellers])].T
    for step in range(steps_N.max(initial=0)):
        moving = np.flatnonzero(steps_N > step)
        drive = drive_TN[:, moving] if step < DRIVEN_STEPS else 0.0
        state_TN[:, moving] = next_states(network, state_TN[:, moving], state_noise, rng, drive)
        follow(state_TN[:, moving], moving)
    return state_TN
