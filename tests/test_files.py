"""Files are written whole or not at all, whatever ends the writing."""

import errno

import pytest

from mofm.errors import InputError
from mofm.files import output_file, written_whole


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("of yesterday")
    return path


def test_a_file_is_replaced_when_it_is_whole(path, snapshot):
    with written_whole(path) as temporary:
        temporary.write_text("of today")
        assert path.read_text() == "of yesterday"
    assert snapshot(path.parent) == {path: b"of today"}


def interrupt(how, path, error):
    with how(path) as temporary:
        temporary.write_text("of to")
        raise error


@pytest.mark.parametrize("how", [written_whole, output_file])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_writer_leaves_what_was(path, snapshot, how, error):
    before = snapshot(path.parent)
    with pytest.raises(error):
        interrupt(how, path, error)
    assert snapshot(path.parent) == before


def test_what_the_disk_refuses_is_told_in_a_line(path, snapshot):
    before = snapshot(path.parent)
    with pytest.raises(InputError, match=r"out\.txt: cannot be written \(No space left\); free space"):
        interrupt(output_file, path, OSError(errno.ENOSPC, "No space left"))
    assert snapshot(path.parent) == before


def test_the_folder_of_an_output_is_made(tmp_path):
    with output_file(tmp_path / "deep" / "out.txt") as temporary:
        temporary.write_text("said")
    assert (tmp_path / "deep" / "out.txt").read_text() == "said"
