"""mofm: foundation models of single-cell multi-omics data, in JAX. README.md shows the map of the house.

import mofm

model = mofm.load("runs/mine")  # or a bundle of `mofm export`
model.embed(adata)  # obsm["X_mofm"]
mofm.pl.embedding(adata, color="cell_type")  # matplotlib Axes
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mofm import pl
    from mofm.inference.api import Model

__all__ = ["load", "pl"]

__version__ = "0.1.0"


def load(path, *, step: int | str | None = None) -> "Model":
    """Load a trained model: the directory of a run, or a bundle. Runs no code of theirs.

    Args:
      path: of the folder.
      step: of a run, which checkpoint: its step, "latest" or "best" (by held-out loss), as None. A bundle has one.

    Raises:
      mofm.errors.InputError: neither of the two, damaged, of a newer mofm, or without such a checkpoint; a line says what
        to do.
    """
    # Here, and not above: whoever wants the version alone, as every room does, should not wait for jax.
    from mofm.inference.api import Model

    return Model.load(path, step=step)


def __getattr__(name: str):
    """`mofm.pl`, loaded when it is first asked for: matplotlib and scanpy take seconds."""
    if name == "pl":
        import mofm.pl as pl

        return pl
    raise AttributeError(f"module 'mofm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "pl"])
