"""Whatever a person gives `mofm` that it cannot use ends in exit code 2, one line on stderr that says what, where and
what to do, and a disk as it was before. And the help teaches."""

import errno
import json
import os
import subprocess
import sys

import anndata as ad
import mudata
import numpy as np
import pytest
from scipy import sparse

from mofm.cli import main
from mofm.corpus.store import open_corpus

VERBS = (
    "inspect",
    "ingest",
    "plan",
    "annotate",
    "train",
    "finetune",
    "embed",
    "regulators",
    "perturb",
    "evaluate",
    "simulate",
    "demo",
)
CONFIG = """
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({})
"""


def refused(capsys, arguments) -> str:
    """The one line with which a command is refused."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert err.startswith(f"mofm {arguments[0]}: ")
    return err


def not_hdf5(cells, path):
    path.write_text("gene,cell1\nCD3D,5\n")


def truncated(cells, path):
    cells.write_h5ad(path)
    os.truncate(path, path.stat().st_size * 2 // 3)


def empty_file(cells, path):
    path.touch()


def with_values(change):
    def write(cells, path):
        values = change(cells.X.toarray())
        ad.AnnData(values.astype(np.float32), obs=cells.obs, var=cells.var).write_h5ad(path)

    return write


def at_one_place(value):
    """One value that is no count, in the last cell."""

    def change(counts):
        counts[-1, -1] = value
        return counts

    return with_values(change)


def log_normalise(counts):
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 777.7)


def scale(counts):
    return (counts - counts.mean(axis=0)) / (counts.std(axis=0) + 0.1)


def no_cells(cells, path):
    cells[:0].write_h5ad(path)


def repeated_names(cells, path):
    cells.obs_names = ["twin", *cells.obs_names[1:-1], "twin"]
    cells.write_h5ad(path)


def swapped(cells, path):
    cells.T.write_h5ad(path)


BAD_FILES = {
    "absent": (lambda cells, path: None, ("no such file", "cannot be read"), "check the path"),
    "not HDF5": (not_hdf5, ("not an HDF5 file",), "give h5ad"),
    "truncated": (truncated, ("cut short",), "fetch or write it again"),
    "empty": (empty_file, ("0 bytes",), "fetch or write it again"),
    "log-normalised": (with_values(log_normalise), ("log-normalised",), "--recover-counts"),
    "scaled": (with_values(scale), ("scaled or centred",), "layers['counts']"),
    "a negative value": (at_one_place(-3), ("-3, a negative", "negative ones"), "--counts-from"),
    "a NaN": (at_one_place(np.nan), ("nan, not a finite", "NaN"), "--counts-from"),
    "a fraction": (at_one_place(0.25), ("0.25, not a whole", "log-normalised"), "layers['counts']"),
    "no cells": (no_cells, ("no cells",), "filtered out"),
    "repeated cell names": (repeated_names, ("'twin'",), "obs_names_make_unique"),
    "genes x cells": (swapped, ("genes x cells",), "write adata.T"),
}


@pytest.fixture
def bad_file(request, make_cells, tmp_path):
    """(path of the file, what may be said of it, what to do about it)."""
    write, what, remedy = BAD_FILES[request.param]
    path = tmp_path / "cells of mine.h5ad"
    write(make_cells(30), path)
    return path, what, remedy


@pytest.mark.parametrize("bad_file", BAD_FILES, indirect=True)
def test_ingest_refuses(bad_file, capsys, tmp_path, snapshot):
    path, what, remedy = bad_file
    before = snapshot(tmp_path)
    line = refused(capsys, ["ingest", path, tmp_path / "corpus"])
    assert str(path) in line
    assert any(words in line for words in what), line
    assert remedy in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("bad_file", BAD_FILES, indirect=True)
def test_embed_refuses(bad_file, trained, capsys, tmp_path, snapshot):
    path, what, remedy = bad_file
    before, model = snapshot(tmp_path), snapshot(trained.workdir)
    line = refused(capsys, ["embed", trained.workdir, path, tmp_path / "out" / "embedded.h5ad"])
    assert str(path) in line
    assert any(words in line for words in what), line
    assert remedy in line
    assert snapshot(tmp_path) == before
    assert snapshot(trained.workdir) == model


@pytest.mark.parametrize("bad_file", BAD_FILES, indirect=True)
def test_inspect_says_the_same(bad_file, capsys, tmp_path, snapshot):
    """To a person who asks what is in a file, that it cannot be used is the answer: it is on stdout, the code is 2."""
    path, what, _ = bad_file
    before = snapshot(tmp_path)
    assert main(["inspect", str(path)]) == 2
    out, err = capsys.readouterr()
    assert any(words in out + err for words in what), out + err
    assert "Traceback" not in out + err
    assert snapshot(tmp_path) == before


def test_a_bad_file_among_good_ones_stops_all(trained, make_cells, capsys, tmp_path, snapshot):
    make_cells(30).write_h5ad(tmp_path / "good.h5ad")
    (tmp_path / "bad.h5ad").write_text("no")
    before = snapshot(tmp_path)
    assert "bad.h5ad" in refused(capsys, ["ingest", tmp_path / "good.h5ad", tmp_path / "bad.h5ad", tmp_path / "corpus"])
    assert snapshot(tmp_path) == before


def test_embed_without_a_gene_in_common(trained, make_cells, capsys, tmp_path, snapshot):
    make_cells(10, genes=slice(300, 330)).write_h5ad(tmp_path / "in.h5ad")
    before = snapshot(tmp_path)
    line = refused(capsys, ["embed", trained.workdir, tmp_path / "in.h5ad", tmp_path / "out.h5ad"])
    assert "none of its 30 genes" in line
    assert "--species" in line
    assert snapshot(tmp_path) == before


def test_embed_does_not_overwrite_unasked(trained, capsys, tmp_path):
    (tmp_path / "out.h5ad").write_text("of yesterday")
    line = refused(capsys, ["embed", trained.workdir, trained.source, tmp_path / "out.h5ad"])
    assert "exists" in line
    assert "--overwrite" in line
    assert (tmp_path / "out.h5ad").read_text() == "of yesterday"
    assert main(["embed", str(trained.workdir), str(trained.source), str(tmp_path / "out.h5ad"), "--overwrite"]) == 0
    assert "X_mofm" in ad.read_h5ad(tmp_path / "out.h5ad").obsm


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--batch-size", "0"], "batch size 0: must be at least 1"),
        (["--max-tokens", "0"], "max tokens 0: must be at least 1"),
        (["--step", "5"], "no checkpoint of step 5 (there are: 3, 6)"),
        (["--species", "mose"], "Did you mean 'mouse'?"),
        (["--counts-from", "layer/counts"], "no matrix 'layer/counts'; the file has X"),
    ],
)
def test_embed_options(trained, capsys, tmp_path, snapshot, options, what):
    line = refused(capsys, ["embed", trained.workdir, trained.source, tmp_path / "out.h5ad", *options])
    assert what in line
    assert snapshot(tmp_path) == {}


def test_embed_warns_where_the_model_knows_little(trained, make_cells, capsys, tmp_path):
    cells = make_cells(10, genes=slice(220, 400))
    known, n_genes = np.arange(cells.n_vars) < 80, cells.n_vars
    share = cells.X[:, known].sum() / cells.X.sum()
    assert share < 0.5
    cells.write_h5ad(tmp_path / "in.h5ad")
    assert main(["embed", str(trained.workdir), str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad")]) == 0
    out = capsys.readouterr().out
    assert f"80 of {n_genes} genes ({80 / n_genes:.1%}), which hold {share:.1%} of the counts" in out
    assert "warning: less than half" in out


def train_arguments(trained, folder, *overrides):
    (folder / "config.py").write_text(CONFIG)
    chosen = {"data": trained.config.data, "encoder": trained.config.encoder, "run": trained.config.run}
    keys = {
        "data": ("corpus", "batch_size", "tokens", "block_cells", "window_blocks"),
        "encoder": ("width", "blocks", "heads", "ffn", "cell_width", "bins", "compute_dtype"),
        "run": ("steps", "log_every", "eval_every", "eval_cells", "checkpoint_every"),
    }
    words = [f"--config.{group}.{key}={getattr(chosen[group], key)}" for group in keys for key in keys[group]]
    words += ["--config.optimizer.learning_rate=0.01", "--config.optimizer.warmup_steps=2", *overrides]
    return ["train", "--quiet", "--config", folder / "config.py", "--workdir", folder / "run", *words]


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("--config.encoder.widht=32", ("'encoder.widht'", "Did you mean 'width'?")),
        ("--config.encodr.width=32", ("'encodr'", "Did you mean 'encoder'?")),
        ("--config.encoder.width=wide", ("encoder.width='wide'", "expected int")),
        ("--config.encoder.width=1.5", ("encoder.width=1.5", "expected int")),
        ("--config.optimizer.learning_rate=fast", ("optimizer.learning_rate='fast'", "expected float")),
        ("--config.encoder.width=17", ("encoder.width=17", "encoder.heads=2")),
        ("--config.encoder=32", ("'encoder' is a group", "width")),
        ("--config.encoder.width", ("write --config.encoder.width=VALUE",)),
        ("--config.run.steps=0", ("run.steps=0", "at least 1")),
        ("--config.data.corpus=nowhere", ("nowhere", "mofm ingest")),
        ("--config.mesh.data=5", ("data=5", "8 device(s)", "mesh.data=-1")),
    ],
)
def test_train_refuses_a_config(trained, capsys, tmp_path, snapshot, override, what):
    arguments = train_arguments(trained, tmp_path, override)
    before = snapshot(tmp_path)
    line = refused(capsys, arguments)
    for words in what:
        assert words in line, line
    assert snapshot(tmp_path) == before


def test_train_refuses_a_batch_that_does_not_divide(trained, capsys, tmp_path, snapshot):
    arguments = train_arguments(trained, tmp_path, "--config.mesh.data=8", "--config.data.batch_size=12")
    before = snapshot(tmp_path)
    line = refused(capsys, arguments)
    assert "data.batch_size=12" in line
    assert "use 8 or 16" in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "no such config file"),
        ("config = 3\n", "get_config"),
        ("def get_config():\n    return {'data': {}}\n", "data.corpus is not set"),
    ],
)
def test_train_refuses_a_config_file(capsys, tmp_path, snapshot, text, what):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    before = {path: content for path, content in snapshot(tmp_path).items() if "__pycache__" not in str(path)}
    assert what in refused(capsys, ["train", "--config", tmp_path / "mine.py", "--workdir", tmp_path / "run"])
    assert {path: content for path, content in snapshot(tmp_path).items() if "__pycache__" not in str(path)} == before


def test_train_refuses_the_workdir_of_another_config(trained, capsys, tmp_path, snapshot):
    arguments = train_arguments(trained, tmp_path, "--config.encoder.ffn=40")
    arguments[arguments.index(tmp_path / "run")] = trained.workdir
    before = snapshot(trained.workdir)
    line = refused(capsys, arguments)
    assert "encoder.ffn was 24, is 40" in line
    assert "another --workdir" in line
    assert snapshot(trained.workdir) == before


def test_unknown_arguments(capsys):
    for arguments in (
        ["embed", "a", "b", "c", "--setp", "3"],
        ["train", "--config", "c", "--workdir", "w", "--x"],
        ["fly"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert "mofm" in capsys.readouterr().err


def full_disk_as_python_tells_it(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_as_orbax_tells_it(*_, **__):
    """Its words on a tmpfs that was full in earnest; the cause is TensorStore's."""
    cause = ValueError(
        "RESOURCE_EXHAUSTED: Failed writing: Failed to write 74425 bytes to file 27: No space left on device"
    )
    raise RuntimeError("Failed to run 3 Handler Commit operations") from cause


@pytest.fixture
def full_disk(monkeypatch):
    """A function (owner, name) that makes one function fail as on a full disk."""
    return lambda owner, name: monkeypatch.setattr(owner, name, full_disk_as_python_tells_it)


@pytest.mark.parametrize("fails", ["_write_counts", "write_obs", "write_var", "sync"])
def test_full_disk_in_ingest(trained, capsys, tmp_path, snapshot, full_disk, fails):
    from mofm.corpus import writer

    full_disk(writer, fails)
    line = refused(capsys, ["ingest", trained.source, tmp_path / "corpus"])
    assert f"{tmp_path / 'corpus'}: the disk is full" in line
    assert "free space" in line
    assert snapshot(tmp_path) == {}


def test_full_disk_in_embed(trained, capsys, tmp_path, snapshot, full_disk):
    full_disk(ad.io, "write_elem")
    line = refused(capsys, ["embed", trained.workdir, trained.source, tmp_path / "out.h5ad"])
    assert str(tmp_path / "out.h5ad") in line
    assert "No space left" in line
    assert "free space" in line
    assert snapshot(tmp_path) == {}


def test_full_disk_in_simulate(capsys, tmp_path, snapshot, full_disk):
    full_disk(ad.AnnData, "write_h5ad")
    small = ["--cells", 20, "--genes", 20, "--tfs", 4, "--cell-types", 2]
    line = refused(capsys, ["simulate", tmp_path / "out.h5ad", *small])
    assert "No space left" in line
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("fails", [full_disk_as_python_tells_it, full_disk_as_orbax_tells_it])
def test_full_disk_in_train(trained, capsys, tmp_path, monkeypatch, fails):
    """Met at a checkpoint, when what was saved before stays."""
    monkeypatch.setattr("mofm.training.loop._Run.go", fails)
    line = refused(capsys, train_arguments(trained, tmp_path))
    assert f"{tmp_path / 'run'}: the disk is full" in line
    assert "free space, and the same command goes on" in line


def test_a_bug_is_not_told_as_a_bad_input(monkeypatch, capsys, tmp_path):
    def bug(*_):
        raise ValueError("ours")

    monkeypatch.setattr("mofm.inspection.inspect", bug)
    with pytest.raises(ValueError, match="ours"):
        main(["inspect", str(tmp_path)])


def test_simulate_refuses(capsys, tmp_path, snapshot):
    assert "cells=0" in refused(capsys, ["simulate", tmp_path / "out.h5ad", "--cells", 0])
    (tmp_path / "there.h5ad").write_text("mine")
    before = snapshot(tmp_path)
    assert "--overwrite" in refused(capsys, ["simulate", tmp_path / "there.h5ad"])
    assert snapshot(tmp_path) == before


def test_simulate_does_what_its_options_say(capsys, tmp_path):
    small = ["--cells", "40", "--genes", "30", "--tfs", "6", "--cell-types", "3", "--batches", "2", "--seed", "4"]
    for name in ("one.h5ad", "other.h5ad"):
        assert main(["simulate", str(tmp_path / name), *small]) == 0
    one, other = (ad.read_h5ad(tmp_path / name) for name in ("one.h5ad", "other.h5ad"))
    assert one.shape == (40, 30)
    assert one.obs["cell_type"].nunique() == 3
    assert one.obs["batch"].nunique() == 2
    assert one.var["is_tf"].sum() == 6
    assert (one.X != other.X).sum() == 0
    assert "40 cells x 30 genes, 3 types" in capsys.readouterr().out


def test_simulate_writes_several_omics_of_the_same_cells(capsys, tmp_path):
    small = ["--cells", "40", "--genes", "30", "--tfs", "6", "--cell-types", "3", "--donors", "2", "--path-types", "2"]
    every = ["--modalities", "rna", "atac", "adt", "methylation"]
    assert main(["simulate", str(tmp_path / "all.h5mu"), *every, *small]) == 0
    told = capsys.readouterr().out
    for words in ("40 cells x 30 genes, 3 types", "peaks", "26 antibodies", "60 features"):
        assert words in told
    paired = mudata.read_h5mu(tmp_path / "all.h5mu")
    assert list(paired.mod) == every[1:]
    assert paired.n_obs == 40
    assert all(adata.n_obs == 40 for adata in paired.mod.values())
    assert paired["rna"].obs["donor"].nunique() == 2
    assert paired["rna"].obs["pseudotime"].notna().any()

    assert main(["simulate", str(tmp_path / "split.h5mu"), *every, "--unpaired", *small]) == 0
    unpaired = mudata.read_h5mu(tmp_path / "split.h5mu")
    assert unpaired.n_obs == 40
    assert all(adata.n_obs == 10 for adata in unpaired.mod.values())


def test_simulate_writes_one_modality_as_h5ad(tmp_path):
    small = ["--cells", "40", "--genes", "30", "--tfs", "6", "--cell-types", "3"]
    assert main(["simulate", str(tmp_path / "atac.h5ad"), "--modalities", "atac", *small]) == 0
    assert ad.read_h5ad(tmp_path / "atac.h5ad").var_names.str.startswith("chr").all()
    assert main(["simulate", str(tmp_path / "rna.h5ad"), "--species", "mouse", *small]) == 0
    assert ad.read_h5ad(tmp_path / "rna.h5ad").var_names.str.startswith("ENSMUSG").all()


def test_simulate_refuses_what_its_file_cannot_hold(capsys, tmp_path, snapshot):
    several = refused(capsys, ["simulate", tmp_path / "out.h5ad", "--modalities", "rna", "atac"])
    assert "ends in .h5mu" in several
    assert "name several" in refused(capsys, ["simulate", tmp_path / "out.h5ad", "--unpaired"])
    assert "species 'cow'" in refused(capsys, ["simulate", tmp_path / "out.h5ad", "--species", "cow"])
    assert snapshot(tmp_path) == {}


def test_ingest_of_several_omics_by_its_options(capsys, tmp_path):
    cells, corpus = tmp_path / "cells.h5mu", tmp_path / "corpus"
    sizes = ["--cells", "60", "--genes", "60", "--tfs", "15"]
    assert main(["simulate", str(cells), *sizes, "--modalities", "rna", "atac", "adt", "methylation"]) == 0
    assert main(["ingest", str(cells), str(corpus), "--build", "hg38", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert all(modality in out for modality in ("rna", "atac", "adt", "methylation"))
    (dataset,) = open_corpus(corpus).datasets
    assert (dataset.n_cells, dataset.modalities) == (60, ("rna", "atac", "adt", "methylation"))
    truth = mudata.read_h5mu(cells)["methylation"]
    rows = dataset.stores["methylation"].read_rows(0, 60).result()
    assert (rows.data.sum(), rows.hits.sum()) == (truth.X.sum(), truth.layers["methylated"].sum())
    assert main(["inspect", str(cells), "--json", "--modality", "atac"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [table["modality"] for table in report["tables"]] == ["atac"]
    assert "hg99" in refused(capsys, ["ingest", cells, corpus, "--build", "hg99"])


def test_inspect_json_is_json(trained, capsys):
    for path in (trained.source, trained.corpus):
        assert main(["inspect", "--json", str(path)]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["usable"] is True


def test_inspect_json_of_a_bad_file(make_cells, capsys, tmp_path):
    repeated_names(make_cells(30), tmp_path / "in.h5ad")
    assert main(["inspect", "--json", str(tmp_path / "in.h5ad")]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["usable"] is False
    assert "'twin'" in report["why"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches(capsys, verb):
    """Every argument has its meaning or its default said, and the verb a sentence of what it does."""
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    prose = text.split("\n\n")[1]
    assert len(prose.split()) > 6
    assert prose.rstrip().endswith(".")
    options = text.split("options:")[1]
    entries = [line for line in options.splitlines() if line.startswith("  -")]
    for entry, following in zip(entries, [*options.splitlines(), ""][1:], strict=False):
        assert len(entry.split("  ")) > 2 or following.strip(), f"{verb}: {entry} is not explained"


def test_help_of_mofm_has_the_first_run(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for verb in VERBS:
        assert verb in text
    for verb in ("inspect", "ingest", "train", "embed"):
        assert f"  mofm {verb} " in text


def test_mofm_alone_shows_its_help(capsys):
    assert main([]) == 2
    assert "a first run, on your own file:" in capsys.readouterr().err


def test_as_a_process(tmp_path):
    """The exit code and the line reach the shell; there is no traceback and nothing on stdout."""
    sparse_file = tmp_path / "in.h5ad"
    ad.AnnData(sparse.csr_matrix((0, 3), dtype=np.float32)).write_h5ad(sparse_file)
    done = subprocess.run(
        [sys.executable, "-m", "mofm.cli", "ingest", sparse_file, tmp_path / "corpus"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"mofm ingest: {sparse_file}: X has no cells")
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]
