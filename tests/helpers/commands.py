"""mofm's command line, as tests of the whole call it."""

from mofm.cli import main


def run(*words) -> None:
    """A command that has to succeed."""
    command = [str(word) for word in words]
    assert main(command) == 0, command


def translation(folder, tmp_path, source, target) -> tuple:
    """The words of `mofm translate` for folder/run and folder/cells.h5mu, to tmp_path/told.h5ad."""
    return (folder / "run", folder / "cells.h5mu", tmp_path / "told.h5ad", "--to", target, "--modality", source)
