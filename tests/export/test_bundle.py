"""A bundle is the run that it was made of, whole or refused: the same arrays and results, in as many files as it takes; and
one that is cut short, changed, newer or hostile is told in a line that names the file."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mofm.cli import main
from mofm.errors import InputError
from mofm.export.bundle import write_bundle
from mofm.export.parts import TABLES, read_parts
from mofm.export.tensors import load_tensors, save_tensors
from mofm.inference.model import load
from mofm.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def run(trained):
    return read_parts(trained.workdir)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """A bundle that is left as it is."""
    out = tmp_path_factory.mktemp("bundles") / "whole"
    write_bundle(run, out, licence="CC-BY-4.0")
    return out


@pytest.fixture
def bundle(whole, tmp_path):
    """A copy that may be spoiled."""
    return shutil.copytree(whole, tmp_path / "bundle")


def assert_same(one, other) -> None:
    assert (one.name, one.step, one.spec) == (other.name, other.step, other.spec)
    assert one.config.science() == other.config.science()
    for these, those in ((one.params, other.params), (one.start, other.start)):
        assert jax.tree.structure(these) == jax.tree.structure(those)
        for a, b in zip(jax.tree.leaves(these), jax.tree.leaves(those), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_array_equal(a, b)
    assert one.genes.equals(other.genes)
    assert one.features("rna").equals(other.features("rna"))
    assert one.named_by is other.named_by


def reseal(bundle, **changes) -> None:
    """Another config.json, with the checksum that belongs to it."""
    from mofm.export.checksums import write_checksums

    record = json.loads((bundle / "config.json").read_text()) | changes
    (bundle / "config.json").write_text(json.dumps(record))
    write_checksums(bundle)


def test_a_bundle_is_its_run(run, whole):
    assert_same(read_parts(whole), run)
    assert {path.name for path in whole.iterdir()} == {
        *("README.md", "config.json", "checksums.json", "model.safetensors", "start.safetensors", *TABLES)
    }
    assert not (whole.parent / ".whole.writing").exists()


def test_embeddings_and_reports_are_those_of_the_run(trained, whole):
    from_run, from_bundle = (load(place).embed(trained.source, quiet=True) for place in (trained.workdir, whole))
    np.testing.assert_array_equal(from_run.embedding_NE, from_bundle.embedding_NE)
    for key, value in from_run.report.items():
        np.testing.assert_array_equal(from_bundle.report[key], value, err_msg=key)


def test_a_bundle_of_a_bundle_is_the_same_to_the_byte(whole, tmp_path):
    write_bundle(read_parts(whole), tmp_path / "second")
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()
    }


def test_large_models_are_cut_into_files_with_an_index(run, tmp_path):
    files = write_bundle(run, tmp_path / "cut", shard_bytes=20_000)
    assert_same(read_parts(tmp_path / "cut"), run)
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 3
    assert all(name.endswith(f"-of-{len(shards):05}.safetensors") for name in shards)
    for shard in shards:
        arrays = load_file(tmp_path / "cut" / shard)
        assert len(arrays) == 1 or sum(array.nbytes for array in arrays.values()) <= 20_000
        assert {index["weight_map"][name] for name in arrays} == {shard}
        assert shard in files
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(run.params))


def test_arrays_of_every_kind_come_back_as_they_were(tmp_path):
    arrays = {
        "scalar": np.float32(3.5),
        "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,
        "group/of/atac": np.zeros((0, 4), np.float32),
        "flags": np.array([True, False]),
    }
    save_tensors(tmp_path, "some", arrays)
    found = load_tensors(tmp_path, "some")
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def test_the_step_is_chosen(trained, tmp_path, capsys):
    checkpoints = Checkpoints(trained.workdir / "checkpoints")
    best, latest, steps = checkpoints.best, checkpoints.latest, checkpoints.steps
    checkpoints.close()
    wanted = {"best": best, "latest": latest, None: best} | {step: step for step in steps}
    assert {step: read_parts(trained.workdir, step).step for step in wanted} == wanted
    words = ["export", str(trained.workdir), str(tmp_path / "out")]
    assert main([*words, "--step", "4"]) == 2
    assert "no checkpoint of step 4" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--step", "newest"])
    assert not (tmp_path / "out").exists()
    assert main([*words, "--step", "latest"]) == 0
    with pytest.raises(InputError, match=f"of step {latest} alone"):
        read_parts(tmp_path / "out", 1)


def test_the_card_tells_data_figures_limits_and_licence(trained, whole, tmp_path, run, capsys):
    card = (whole / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: mofm\n")
    assert "96 cells, 1 data set(s)" in card
    assert "| cells | 96 | rna |" in card
    rows = [json.loads(line) for line in (trained.workdir / "metrics.jsonl").read_text().splitlines()]
    loss = next(row["heldout/loss"] for row in rows if row["step"] == run.step and "heldout/loss" in row)
    assert f"| `heldout/loss` | {loss:.4f} |" in card
    assert "## Limits" in card
    assert str(trained.corpus) not in card + (whole / "config.json").read_text()
    (tmp_path / "terms.txt").write_text("Ask me.\n")
    words = ["export", str(trained.workdir), str(tmp_path / "own"), "--licence", str(tmp_path / "terms.txt")]
    assert main([*words, "--name", "blood"]) == 0
    assert (tmp_path / "own" / "LICENSE").read_text() == "Ask me.\n"
    assert "license: other\n" in (tmp_path / "own" / "README.md").read_text()
    assert read_parts(tmp_path / "own").name == "blood"
    capsys.readouterr()
    for option, said in ((("--licence", "two words"), "neither a file nor"), (("--name", "../up"), "name '../up'")):
        assert main(["export", str(trained.workdir), str(tmp_path / "other"), *option]) == 2
        assert said in capsys.readouterr().err


def test_a_run_that_recorded_less_is_exported_all_the_same(trained, tmp_path):
    old = shutil.copytree(trained.workdir, tmp_path / "old")
    record = json.loads((old / "config.json").read_text())
    del record["data_sets"]
    (old / "config.json").write_text(json.dumps(record))
    (old / "metrics.jsonl").unlink()
    write_bundle(read_parts(old), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not recorded" in card
    assert "None: the run was not evaluated" in card
    assert "license: unknown" in card


def test_nothing_is_overwritten_but_a_bundle_and_when_asked(run, bundle, tmp_path, snapshot):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="exists"):
        write_bundle(run, bundle)
    with pytest.raises(InputError, match="no bundle"):
        write_bundle(run, tmp_path / "mine", overwrite=True)
    assert snapshot(tmp_path) == before
    (bundle / "README.md").write_text("edited")
    write_bundle(run, bundle, overwrite=True)
    assert (bundle / "README.md").read_text().startswith("---")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "mine"]


def test_a_write_that_fails_leaves_nothing(run, bundle, snapshot, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = snapshot(bundle.parent)
    monkeypatch.setattr("mofm.export.bundle._copy_tables", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left"):
        write_bundle(run, bundle, overwrite=True)
    with pytest.raises(InputError, match=r"cannot be written \(No space left"):
        write_bundle(run, bundle.parent / "new")
    assert snapshot(bundle.parent) == before


def test_without_flatbuffers_nothing_is_compiled(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(InputError, match="pip install flatbuffers"):
        write_bundle(run, tmp_path / "out", compiled=True)
    assert not list(tmp_path.iterdir())


def test_people_may_edit_what_is_for_people(bundle, run):
    (bundle / "README.md").write_text("my own words")
    (bundle / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert_same(read_parts(bundle), run)


@pytest.mark.parametrize("name", ["config.json", "checksums.json", "model.safetensors", "start.safetensors", *TABLES])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_every_file_that_is_not_whole_is_named(bundle, name, damage):
    path = bundle / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        place = content.rindex(b"0") if name.endswith("json") else len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(InputError) as error:
        read_parts(bundle)
    said = str(error.value)
    assert name in said or (name, damage) == ("checksums.json", "changed")  # then a file and its checksum differ
    assert "again" in said
    assert "\n" not in said


def test_a_newer_format_is_refused_with_why(bundle):
    reseal(bundle, format_version=2, mofm_version="9.1")
    with pytest.raises(InputError, match=r"written by mofm 9\.1 as bundle format 2.*install a newer mofm"):
        read_parts(bundle)


def test_newer_parameters_and_strange_formats_are_refused(bundle):
    reseal(bundle, parameters=99)
    with pytest.raises(InputError, match="of version 99"):
        read_parts(bundle)
    reseal(bundle, parameters=3, format="another thing")
    with pytest.raises(InputError, match="its format is 'another thing'"):
        read_parts(bundle)


def test_what_is_none_of_both_is_told(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="neither a run nor a bundle"):
            read_parts(place)


def test_arrays_that_are_not_of_the_config_are_refused(bundle):
    from mofm.export.checksums import write_checksums

    arrays = load_file(bundle / "model.safetensors")
    name = "decoder.token"
    for changed, said in (
        ({name: arrays[name].astype(np.float64)}, "is float64"),
        ({name: arrays[name][:-1]}, "by its config it is"),
        ({"more": arrays[name]}, "'more' is no array"),
        ({name: None}, f"{name!r} is missing"),
    ):
        found = {key: value for key, value in (arrays | changed).items() if value is not None}
        save_file(found, bundle / "model.safetensors")
        write_checksums(bundle)
        with pytest.raises(InputError, match=said):
            read_parts(bundle)


def test_a_hostile_bundle_reads_nothing_beside_itself(bundle, tmp_path):
    from mofm.export.checksums import write_checksums

    (bundle / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../model.safetensors"}}
    (bundle / "model.safetensors.index.json").write_text(json.dumps(index))
    write_checksums(bundle)
    with pytest.raises(InputError, match="not beside it"):
        read_parts(bundle)
    said = json.loads((bundle / "checksums.json").read_text())
    said["files"]["../model.safetensors"] = {"bytes": 1, "sha256": ""}
    (bundle / "checksums.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="not beside it"):
        read_parts(bundle)


def test_no_pickle_is_in_it(whole):
    for path in whole.iterdir():
        assert path.suffix in (".json", ".safetensors", ".parquet", ".md")
        assert not path.read_bytes().startswith((b"\x80\x04", b"\x80\x05", b"PK"))
