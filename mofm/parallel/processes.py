"""The processes of one run: how they find each other, which of them writes, and how they stop together.

JAX's own multi-controller runtime is the engine: every process runs the same program over the devices of all. Files of a
run that are not arrays are written by the first process; all must see the same directory.

A process that dies takes the others with it: their next collective fails, or the coordination service, which hears a
heartbeat of each, ends them after `HEARTBEAT_TIMEOUT`. So a run never hangs for a lost host, and goes on from its last
checkpoint when it is started again.
"""

import os
from dataclasses import dataclass

import jax
from jax.experimental import multihost_utils

from mofm.errors import InputError

HEARTBEAT_TIMEOUT = 60
"""Seconds without a heartbeat after which a process counts as lost, and the run ends."""
_LAUNCHED = (("SLURM", "SLURM_NTASKS", "SLURM_PROCID"), ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"))
"""Launchers of several processes: how many there are, and which this one is, by their environment."""


@dataclass(frozen=True)
class Processes:
    """How this process finds the others.

    Attributes:
      distributed: by what SLURM, Open MPI, a TPU's hosts or GKE say in the environment.
      coordinator: "HOST:PORT" of the first process instead, with
      count: how many there are, and
      index: which this one is, from 0.
    """

    distributed: bool = False
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None

    def __post_init__(self):
        given = [part is not None for part in (self.coordinator, self.count, self.index)]
        if any(given) and not all(given):
            raise InputError("--coordinator HOST:PORT, --processes N and --process I belong together: give all three")
        if all(given) and not (self.count >= 1 and 0 <= self.index < self.count):
            raise InputError(f"--process {self.index} of --processes {self.count}: it counts from 0 and is less than N")
        if self.coordinator and not self.coordinator.rpartition(":")[2].isdecimal():
            raise InputError(f"--coordinator {self.coordinator}: HOST:PORT is expected, such as 10.0.0.1:8476")


def start(processes: Processes) -> None:
    """Join the other processes of the run; before JAX is used for anything else.

    Raises:
      InputError: a launcher started several processes and nothing says that they are one run; or `distributed` was asked
        for where there is none to be found, or the others cannot be reached.
    """
    if not processes.distributed and processes.coordinator is None:
        _refuse_strangers()
        return
    jax.config.update("jax_enable_preemption_service", True)  # SIGTERM of one process becomes a stop of all
    address = {} if processes.coordinator is None else {
        "coordinator_address": processes.coordinator, "num_processes": processes.count, "process_id": processes.index
    }  # fmt: skip
    try:
        jax.distributed.initialize(**address, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)
    except ValueError as error:
        raise InputError(
            f"--distributed: nothing here names other processes ({error}); start it by srun, mpirun, on all hosts of a TPU, "
            "or say --coordinator HOST:PORT --processes N --process I"
        ) from error
    except RuntimeError as error:
        raise InputError(
            f"the other processes of the run cannot be reached ({str(error).splitlines()[0]}); check that all were started, "
            "and that the first one's port is open to them"
        ) from error


def _refuse_strangers() -> None:
    for launcher, count, index in _LAUNCHED:
        # A batch script's own environment has SLURM_NTASKS too, but runs in no step.
        in_step = launcher != "SLURM" or "SLURM_STEP_ID" in os.environ
        if in_step and int(os.environ.get(count, "1")) > 1:
            raise InputError(
                f"{launcher} started {os.environ[count]} processes, of which this is number {os.environ.get(index)}, and each "
                "would train a run of its own in the same place: add --distributed to make them one run, or start one process"
            )


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns once every process has come here; at once where there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def all_asked_to_stop(step: int) -> bool:
    """Whether any process was asked to stop (SIGTERM), agreed upon by all at a step; False where there is one."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def lost_another(error: Exception) -> bool:
    """Whether an error of the runtime is that of a process that no longer answers."""
    signs = ("gloo", "connection", "heartbeat", "nccl", "peer", "unavailable", "coordination")
    return jax.process_count() > 1 and any(sign in str(error).lower() for sign in signs)
