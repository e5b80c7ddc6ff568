"""XLA:TPU asked what a step takes: compiled for a slice that is not there, on any machine that has libtpu.

libtpu is Google's library of the TPU's compiler and runtime, a wheel on PyPI (the extra `tpu`). Its compiler needs no TPU, and
gives for a whole slice the program that each of its chips would run: memory, fusions, collectives.

Choices and their cost: the program is compiled in full, minutes for a large model on a busy laptop, as nothing less knows its
memory; and it is the step alone, without the evaluation and the first batches in flight, which take far less.
"""

import importlib.util
import os
import re
import time
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from mofm.errors import InputError
from mofm.planning.chips import Topology
from mofm.planning.collectives import Sent, sent
from mofm.planning.hlo import parse
from mofm.planning.shapes import Step, on_mesh
from mofm.planning.traffic import memory_traffic

_REQUIRED = re.compile(
    r"(?:required|temporaries)[^()]*?\(?([\d.]+)([KMGT])\)?\s+exceeds|([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class TooLargeError(Exception):
    """The compiler refuses a program for its memory; `required` bytes, None where it does not say."""

    def __init__(self, message: str):
        super().__init__(message.splitlines()[0])
        found = _REQUIRED.search(message)
        number, unit = [group for group in found.groups() if group] if found else (0, "K")
        self.required = float(number) * _UNITS[unit] if found else None


class Memory(NamedTuple):
    """Bytes of one device at the peak of a step.

    Attributes:
      arguments: parameters, optimizer state, batch, features and network.
      temporaries: activations and what else lives during the step.
      program: the code.
      limit: what there is.
    """

    arguments: float
    temporaries: float
    program: float
    limit: float

    @property
    def total(self) -> float:
        """What is needed."""
        return self.arguments + self.temporaries + self.program


class Compiled(NamedTuple):
    """What the compiler made of a step, of one device.

    Attributes:
      memory: see there.
      traffic: bytes read and written in main memory.
      unknown_loops: loops whose length XLA does not give; they count once in `traffic` and `sent`.
      sent: collectives.
      seconds: of compilation.
    """

    memory: Memory
    traffic: float
    unknown_loops: int
    sent: list[Sent]
    seconds: float


def tpu_devices(topology: Topology) -> list[jax.Device]:
    """The devices of a slice that need not be there.

    Raises:
      InputError: libtpu is not installed, or does not know such a slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"--topology {topology.name}: compiling for TPUs needs libtpu, which is not installed: "
            'pip install "mofm[tpu]" (in a clone pip install -e ".[tpu]"; Linux, about 210 MB); no TPU is needed'
        )
    # libtpu else asks Google's metadata server what machine this is, complains where there is none, and refuses to be
    # loaded by a second process.
    variables = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost"}
    variables |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if before[name] is None})
    from jax.experimental import topologies

    options = {"chips_per_host_bounds": [1, 1, 1]} if topology.devices == 1 else {"num_slices": topology.slices}
    try:
        return topologies.get_topology_desc(topology.name, "tpu", **options).devices
    except Exception as error:
        what = str(error).splitlines()[0]
        raise InputError(f"--topology {topology.name}: libtpu does not know this slice ({what})") from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def compile_step(step: Step, mesh: Mesh, limit: float) -> Compiled:
    """Compile a step for the mesh's TPUs, its state given up for the result as `mofm train` does.

    Raises:
      TooLargeError: it does not fit into a chip's memory.
    """
    begin = time.perf_counter()
    try:
        with on_mesh(mesh):
            traced = jax.jit(step.function, donate_argnums=1).trace(*step.arguments)
            compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLargeError(str(error)) from error
    said = compiled.memory_analysis()
    memory = Memory(
        arguments=said.argument_size_in_bytes,
        temporaries=said.temp_size_in_bytes + said.output_size_in_bytes - said.alias_size_in_bytes,
        program=said.generated_code_size_in_bytes,
        limit=limit,
    )
    program = parse(compiled.as_text())
    traffic, unknown = memory_traffic(program)
    return Compiled(memory, traffic, unknown, sent(program, dict(mesh.shape)), time.perf_counter() - begin)
