"""A plan for people, a line a fact, and for programs, as JSON."""

import dataclasses
from typing import Any

from mofm.planning.chips import Chip, gibibytes
from mofm.planning.nearest import Nearest, as_options
from mofm.planning.plan import Plan
from mofm.planning.roofline import days

NEVER_RAN = "nothing of it has run"
NAMES = {"products": "matrix products", "memory": "memory traffic", "network": "traffic between devices"}


def as_text(plan: Plan, chip: Chip, steps: int, cells: int | None = None) -> str:
    """The plan in lines; `cells`: for how many of them the days are given, None for those of the config's `steps`."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    tokens = ", ".join(f"{count:,} tokens of {modality}" for modality, count in plan.tokens.items())
    lines = {
        "where": f"{plan.topology}: {plan.devices:,} x {plan.chip}, mesh {mesh}",
        "how": f"compiled by {plan.compiler} in {plan.compile_seconds:,.0f} s; {NEVER_RAN}"
        if plan.compiler
        else f"an ESTIMATE by arithmetic: XLA compiles for GPUs only where there is one; {NEVER_RAN}",
        "model": f"{plan.parameters / 1e6:,.1f} M parameters; {plan.source}",
        "batch": f"{plan.cells:,} cells, {tokens}; {plan.cells / plan.devices:,.1f} cells a device",
    }
    if plan.compiler and plan.memory is None:
        lines["how"] = f"refused by {plan.compiler} for its memory; {NEVER_RAN}"
    lines["memory"] = _memory(plan)
    lines["FLOPs"] = (
        f"{plan.model_flops:.3g} a step (products, forward and backward); with what is computed again "
        f"{sum(plan.device_flops.values()):.3g}"
    )
    if plan.times:
        lines |= _of_time(plan, chip, steps, cells)
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{width}}{words}" for name, words in lines.items())


def _memory(plan: Plan) -> str:
    if plan.memory is None:
        needs = "more" if plan.required is None else gibibytes(plan.required)
        return f"DOES NOT FIT: needs {needs}, a device has {gibibytes(plan.limit)}"
    memory = plan.memory
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    return (
        f"{verdict}: {gibibytes(memory.total)} of {gibibytes(memory.limit)} a device ({memory.total / memory.limit:.0%}): "
        f"state and batch {gibibytes(memory.arguments)}, temporaries {gibibytes(memory.temporaries)}"
        + (f", program {gibibytes(memory.program)}" if memory.program else "")
    )


def _of_time(plan: Plan, chip: Chip, steps: int, cells: int | None) -> dict[str, str]:
    times = plan.times
    sent = ", ".join(f"{_three(count / 1e9)} GB along {axes}" for axes, count in plan.sent_by_axes.items()) or "none"
    unknown = f"; {plan.unknown_loops} loops of unknown length counted once" if plan.unknown_loops else ""
    fastest, slowest = (plan.cells / seconds for seconds in (times.slowest, times.fastest))
    slow, fast = min(fastest, slowest), max(fastest, slowest)
    wanted = steps * plan.cells if cells is None else cells
    share = plan.model_flops / plan.devices / chip.flops
    parts = ", ".join(f"{NAMES[name]} {_three(seconds * 1e3)}" for name, seconds in times._asdict().items())
    what = f"{wanted:,} cells" + (f" (run.steps={steps:,})" if cells is None else "")
    return {
        "traffic": f"{_three(plan.traffic / 1e9)} GB from and to memory a device and step{unknown}",
        "sent": f"a device and step: {sent}",
        "time": f"{_three(times.fastest * 1e3)} to {_three(times.slowest * 1e3)} ms a step at peak rates ({parts} ms), if all "
        f"overlaps or none; bound by {NAMES[times.bound]}",
        "speed": f"{slow:,.0f} to {fast:,.0f} cells/s; {share / times.slowest:.0%} to {share / times.fastest:.0%} of peak "
        "FLOPs",
        "days": f"{days(wanted, fast):,.2f} to {days(wanted, slow):,.2f} for {what}",
    }


def _three(x: float) -> str:
    """Three digits, and never an exponent above."""
    return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def as_json(plan: Plan, nearest: Nearest | None = None) -> dict[str, Any]:
    """The plan in plain values: seconds, bytes and FLOPs."""
    found = dataclasses.asdict(plan)
    found |= {"fits": plan.fits, "memory": plan.memory and plan.memory._asdict() | {"total": plan.memory.total}}
    found |= {"sent": [one._asdict() for one in plan.sent], "sent_by_axes": plan.sent_by_axes}
    if plan.times:
        times = plan.times
        found["times"] = times._asdict() | {"fastest": times.fastest, "slowest": times.slowest, "bound": times.bound}
        found["cells_per_s"] = [plan.cells / times.slowest, plan.cells / times.fastest]
    if nearest:
        found["nearest"] = {"options": as_options(nearest.changes), "plan": as_json(nearest.plan)}
    return found
