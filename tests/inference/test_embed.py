"""A cell's embedding is the cell's own: no order, company, batch size or naming of genes changes it, and the file that
comes back is the file that went in with one embedding and one true report more, or there is no file at all."""

import dataclasses
import errno
import json
import os
import resource
import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mofm.cli import main
from mofm.corpus.ingest import ingest
from mofm.errors import InputError
from mofm.inference import output
from mofm.inference.joint import mean_of_views
from mofm.inference.model import Embedded, Embedding, load
from mofm.inference.output import write_embedding
from mofm.omics import table
from mofm.omics.genome import gene_table
from mofm.omics.readers import Reading
from mofm.training.loop import train
from mofm.training.workdir import read_gene_table

TOLERANCE = 1e-5
"""Of float32 sums in another order. Cells differ by much more (`test_cells_differ`), so the tests can fail."""


@pytest.fixture(scope="session")
def pretrained(trained):
    return load(trained.workdir)


@pytest.fixture
def embed(pretrained, tmp_path):
    """A function (adata, options) -> its Embedding, through a file."""

    def through_file(adata, **options):
        path = tmp_path / "in.h5ad"
        adata.write_h5ad(path)
        return pretrained.embed(path, quiet=True, **options)

    return through_file


@pytest.fixture(scope="session")
def cells(make_cells):
    return make_cells(cells=40, seed=7)


def distance(one_NE, other_NE) -> float:
    """The largest difference of any one value; NaN where either holds one."""
    assert one_NE.shape == other_NE.shape
    return float(np.abs(one_NE - other_NE).max())


def test_cells_differ(cells, embed):
    embedding_NE = embed(cells).embedding_NE
    assert embedding_NE.shape == (40, 8)
    assert embedding_NE.dtype == np.float32
    apart = np.linalg.norm(embedding_NE[:, None] - embedding_NE[None], axis=-1)[np.triu_indices(40, 1)]
    assert apart.min() > 100 * TOLERANCE


def test_order_of_columns(cells, embed):
    shuffled = cells[:, np.random.default_rng(0).permutation(cells.n_vars)].copy()
    np.testing.assert_array_equal(embed(shuffled).embedding_NE, embed(cells).embedding_NE)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size(cells, embed, batch_size):
    one, other = embed(cells, batch_size=batch_size), embed(cells, batch_size=16)
    assert distance(one.embedding_NE, other.embedding_NE) <= TOLERANCE


def test_order_of_cells(cells, embed):
    order = np.random.default_rng(1).permutation(cells.n_obs)
    assert distance(embed(cells[order].copy()).embedding_NE, embed(cells).embedding_NE[order]) <= TOLERANCE


@pytest.mark.parametrize("max_tokens", [2048, 64])
def test_company(cells, embed, max_tokens):
    """Cell 0 has every gene, so views with it are padded wider; with max_tokens=64, it is sampled."""
    whole_NE = embed(cells, max_tokens=max_tokens).embedding_NE
    for kept in ([0], [1, 2, 3], [5, 0, 39]):
        assert distance(embed(cells[kept].copy(), max_tokens=max_tokens).embedding_NE, whole_NE[kept]) <= TOLERANCE


def test_blocks_of_reading(cells, embed, monkeypatch):
    whole_NE = embed(cells).embedding_NE
    rows = table.CountTable.rows
    monkeypatch.setattr(table.CountTable, "rows", lambda self: rows(self, block_entries=500))
    assert distance(embed(cells).embedding_NE, whole_NE) <= TOLERANCE


def test_names_of_genes(cells, embed):
    """Symbols, ids and ids with versions name the same genes; so do names in a column of var."""
    by_symbol = embed(cells)
    plain, versioned, in_column = cells.copy(), cells.copy(), cells.copy()
    plain.var_names = cells.var["gene_ids"].tolist()
    versioned.var_names = [f"{name}.{place % 20 + 1}" for place, name in enumerate(cells.var["gene_ids"])]
    in_column.var_names = [f"row{place}" for place in range(cells.n_vars)]
    for named in (plain, versioned):
        del named.var["gene_ids"]
    for named, names_from in ((plain, "var_names"), (versioned, "var_names"), (in_column, "gene_ids")):
        other = embed(named)
        np.testing.assert_array_equal(other.embedding_NE, by_symbol.embedding_NE)
        assert other.report["feature_names_from"] == names_from
        assert other.report["features_matched"] == cells.n_vars


def test_columns_of_one_gene_are_summed(cells, embed):
    """A gene that a file splits over two columns, one by symbol and one by id, counts as one."""
    counts = cells.X.toarray()
    first = np.floor(counts[:, :1] / 2)
    halves = np.hstack([first, counts[:, 1:], counts[:, :1] - first])
    split = ad.AnnData(sparse.csr_matrix(halves), obs=cells.obs)
    split.var_names = [*cells.var_names, cells.var["gene_ids"].iloc[0]]
    np.testing.assert_array_equal(embed(split).embedding_NE, embed(cells).embedding_NE)


def test_shares_in_the_report(cells, embed, trained):
    """Against sums made here: 30 genes of the model are absent from the file, 25 of the file from the model."""
    elsewhere = [name for name in gene_table("human").symbols[5000:5010] if name not in set(cells.var_names)]
    strange = [f"SPIKE-{i}" for i in range(20)] + elsewhere[:5]
    rng = np.random.default_rng(5)
    extra = rng.poisson(0.7, (cells.n_obs, len(strange)))
    counts = np.hstack([cells.X.toarray()[:, 30:], extra]).astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(counts), obs=cells.obs[[]])
    adata.var_names = [*cells.var_names[30:], *strange]
    report = embed(adata).report
    assert (report["features_matched"], report["features_unmatched"]) == (270, 25)
    assert report["share_of_features_known"] == 270 / 295
    assert report["share_of_counts_known"] == pytest.approx(counts[:, :270].sum() / counts.sum(), rel=1e-12)
    assert report["unmatched_features"].tolist() == strange
    assert (report["model"], report["step"]) == ("run", load(trained.workdir).step)
    assert (report["counts_from"], report["recovered_counts"]) == ("X", False)


def test_empty_cells_are_finite_and_counted(cells, embed):
    counts = cells.X.toarray()
    counts[[0, 3, 39]] = 0
    emptied = ad.AnnData(sparse.csr_matrix(counts), obs=cells.obs, var=cells.var)
    embedding = embed(emptied)
    assert np.isfinite(embedding.embedding_NE).all()
    assert embedding.report["empty_cells"] == 3
    kept = np.delete(np.arange(40), [0, 3, 39])
    assert distance(embedding.embedding_NE[kept], embed(cells).embedding_NE[kept]) <= TOLERANCE


def test_a_file_of_empty_cells_only(cells, embed):
    nothing = ad.AnnData(sparse.csr_matrix(cells.shape, dtype=np.float32), obs=cells.obs, var=cells.var)
    nothing.layers["counts"] = nothing.X.copy()
    try:
        embedding = embed(nothing)
    except InputError:
        return  # refused in one line is as good: there are no counts in it
    assert np.isfinite(embedding.embedding_NE).all()
    assert embedding.report["share_of_counts_known"] == 0


def everything(path):
    """{key: (attributes, values)} of all that an HDF5 file holds."""
    found = {}

    def note(key, node):
        attributes = {name: np.asarray(value).tolist() for name, value in node.attrs.items()}
        values = node[()] if isinstance(node, h5py.Dataset) else None
        found[key] = (attributes, getattr(values, "dtype", None), np.asarray(values).tolist())

    with h5py.File(path) as file:
        file.visititems(note)
    return found


@pytest.fixture
def rich_file(cells, tmp_path):
    """A file with something in every corner of AnnData, whose counts are in a layer."""
    adata = cells.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    adata.raw = adata
    adata.obs["cell_type"] = pd.Categorical(adata.obs["cell_type"])
    adata.obs["score"] = np.linspace(0, 1, adata.n_obs)
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))
    adata.obsp["distances"] = sparse.eye(adata.n_obs, format="csr")
    adata.varm["loadings"] = np.arange(adata.n_vars * 2.0).reshape(-1, 2)
    adata.uns["neighbors"] = {"params": {"n_neighbors": 15, "metric": "cosine"}}
    adata.write_h5ad(tmp_path / "rich.h5ad", compression="gzip")
    return tmp_path / "rich.h5ad"


def alone(embedding):
    """As a file of one modality is embedded."""
    views = {embedding.modality: embedding}
    return Embedded(views, mean_of_views(views))


def test_the_rest_of_the_file_is_copied(rich_file, pretrained, tmp_path):
    embedding = pretrained.embed(rich_file, quiet=True)
    before = rich_file.read_bytes()
    write_embedding(rich_file, tmp_path / "out.h5ad", alone(embedding))
    assert rich_file.read_bytes() == before
    source, target = everything(rich_file), everything(tmp_path / "out.h5ad")
    added = {key for key in target if key not in source}
    assert added
    assert all(key.startswith(("obsm/X_mofm", "uns/mofm")) for key in added)
    assert {key: target[key] for key in source} == source
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(written.obsm["X_mofm"], embedding.embedding_NE)
    report = written.uns["mofm"]
    assert report.keys() == embedding.report.keys()
    assert report["counts_from"] == "layers/counts"
    assert report["share_of_features_known"] == 1.0


def test_an_embedding_of_before_is_replaced(rich_file, pretrained, tmp_path):
    """The file made once can be embedded again, in place; other keys of obsm stay."""
    embedding = pretrained.embed(rich_file, quiet=True)
    write_embedding(rich_file, tmp_path / "out.h5ad", alone(embedding))
    write_embedding(tmp_path / "out.h5ad", tmp_path / "out.h5ad", alone(embedding), "X_other")
    write_embedding(tmp_path / "out.h5ad", tmp_path / "out.h5ad", alone(embedding))
    assert set(ad.read_h5ad(tmp_path / "out.h5ad").obsm) == {"X_pca", "X_mofm", "X_other"}


@pytest.mark.filterwarnings("error::anndata.OldFormatWarning")
def test_a_file_without_obsm_and_uns(cells, pretrained, tmp_path):
    cells.write_h5ad(tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as file:
        for key in ("obsm", "uns"):
            del file[key]
    embedding = pretrained.embed(tmp_path / "in.h5ad", quiet=True)
    write_embedding(tmp_path / "in.h5ad", tmp_path / "out.h5ad", alone(embedding))
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(written.obsm["X_mofm"], embedding.embedding_NE)
    assert written.uns["mofm"]["step"] == embedding.report["step"]


def test_a_zarr_store_is_embedded_as_its_file_is(cells, embed, pretrained, tmp_path):
    cells.write_zarr(tmp_path / "in.zarr")
    embedding = pretrained.embed(tmp_path / "in.zarr", quiet=True)
    np.testing.assert_array_equal(embedding.embedding_NE, embed(cells).embedding_NE)
    write_embedding(tmp_path / "in.zarr", tmp_path / "out.h5ad", alone(embedding))
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(written.obsm["X_mofm"], embedding.embedding_NE)
    assert written.obs_names.tolist() == cells.obs_names.tolist()
    assert written.obs["cell_type"].tolist() == cells.obs["cell_type"].tolist()
    assert written.uns["mofm"]["counts_from"] == "X"


def test_a_zarr_store_that_does_not_tell_its_modality_is_written_as_it_was_read(pretrained, tmp_path):
    """By names alone these could be genes or antibodies; the user said which."""
    names = ["TSPAN6", "KDM1A", "SOX8"]
    ad.AnnData(np.ones((6, 3), np.float32), var=pd.DataFrame(index=names)).write_zarr(tmp_path / "in.zarr")
    embedding = pretrained.embed(tmp_path / "in.zarr", Reading("adt"), quiet=True)
    write_embedding(tmp_path / "in.zarr", tmp_path / "out.h5ad", alone(embedding))
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    assert written.uns["mofm"]["modality"] == "adt"
    np.testing.assert_array_equal(written.obsm["X_mofm"], embedding.embedding_NE)


@pytest.fixture(scope="session")
def embedding(pretrained, trained):
    return pretrained.embed(trained.source, quiet=True)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fails", [(shutil, "copyfile"), (ad.io, "write_elem"), (os, "replace")], ids=lambda f: f[1])
@pytest.mark.parametrize("exists", [False, True])
def test_full_disk_leaves_what_was(trained, embedding, tmp_path, monkeypatch, snapshot, fails, exists):
    if exists:
        (tmp_path / "out.h5ad").write_bytes(b"of yesterday")
    before = snapshot(tmp_path)
    monkeypatch.setattr(*fails, full_disk)
    with pytest.raises(InputError, match=r"out\.h5ad.*No space left.*free space"):
        write_embedding(trained.source, tmp_path / "out.h5ad", alone(embedding))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("room", [-4096, 0, 1024, 2**17])
def test_file_limit_in_earnest(trained, embedding, tmp_path, snapshot, room):
    """The operating system refuses to let the file grow. Met by HDF5 on closing, this ends the process by a signal."""
    limit, ceiling = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (trained.source.stat().st_size + room, ceiling))
    try:
        with pytest.raises(InputError, match=r"out\.h5ad.*cannot be written"):
            write_embedding(trained.source, tmp_path / "out.h5ad", alone(embedding))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, ceiling))
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("unmatched", [0, 1, 40_000])
def test_more_is_reserved_than_is_written(trained, embedding, tmp_path, unmatched):
    names = np.array([f"a_rather_long_name_of_a_gene_{i}" for i in range(unmatched)], dtype=str)
    embedding = Embedding(
        "rna", embedding.cells, np.ones((96, 512), np.float32), embedding.report | {"unmatched_features": names}
    )
    write_embedding(trained.source, tmp_path / "out.h5ad", alone(embedding))
    grown = (tmp_path / "out.h5ad").stat().st_size - trained.source.stat().st_size
    assert (
        embedding.embedding_NE.nbytes < grown < output._bytes_added({"X": embedding.embedding_NE}, {"rna": embedding})
    )
    assert grown < 1.2 * embedding.embedding_NE.nbytes + 200 * unmatched + 2**17  # the reserve is given back


def test_interrupted_leaves_nothing(trained, embedding, tmp_path, monkeypatch, snapshot):
    def ctrl_c(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ad.io, "write_elem", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        write_embedding(trained.source, tmp_path / "out.h5ad", alone(embedding))
    assert snapshot(tmp_path) == {}


def test_a_place_that_cannot_be_written(trained, embedding, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="cannot be written"):
        write_embedding(trained.source, tmp_path / "file" / "out.h5ad", alone(embedding))


def test_no_gene_in_common(make_cells, embed):
    with pytest.raises(InputError, match=r"none of its 20 genes .*--species"):
        embed(make_cells(10, genes=slice(300, 320)))


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [("batch_size", 0, "batch size 0"), ("max_tokens", -1, "max tokens -1"), ("species", "martian", "martian")],
)
def test_options_that_mean_nothing(cells, embed, option, value, what):
    with pytest.raises(InputError, match=what):
        embed(cells, **{option: value})


# --- species ---


def in_mouse(cells) -> ad.AnnData:
    """The same counts, of as many mouse genes."""
    frame = gene_table("mouse").frame
    frame = frame[(frame["biotype"] == "protein_coding") & ~frame["symbol"].duplicated(keep=False)]
    var = pd.DataFrame(index=frame["symbol"].tolist()[: cells.n_vars])
    return ad.AnnData(cells.X, obs=cells.obs, var=var)


def test_genes_of_another_species_are_refused(cells, embed):
    with pytest.raises(InputError, match=r"in\.h5ad: 100% of the genes are mouse .*--orthologs TABLE.*--species mouse"):
        embed(in_mouse(cells))


def test_orthologs_lead_to_the_model(cells, embed, tmp_path, trained, capsys):
    mouse, table = in_mouse(cells), tmp_path / "mouse_human.csv"
    table.write_text("".join(f"{a},{b}\n" for a, b in zip(mouse.var_names, cells.var["gene_ids"], strict=True)))
    embedding = embed(mouse, orthologs=table)
    np.testing.assert_array_equal(embedding.embedding_NE, embed(cells).embedding_NE)
    assert embedding.report["features_matched"] == cells.n_vars
    (note,) = embedding.report["notes"]
    assert note.startswith("300 of 300 genes through their one-to-one orthologs in mouse_human.csv")
    words = ["embed", trained.workdir, tmp_path / "in.h5ad", tmp_path / "out.h5ad", "--orthologs", table, "--overwrite"]
    mouse.write_h5ad(tmp_path / "in.h5ad")
    assert main([str(word) for word in words]) == 0
    assert f"  rna {note}\n" in capsys.readouterr().out
    assert ad.read_h5ad(tmp_path / "out.h5ad").uns["mofm"]["notes"].tolist() == [note]


@pytest.fixture(scope="module")
def of_mouse(cells, trained, tmp_path_factory):
    """(folder of a model trained a step on mouse cells, the file of these)."""
    folder = tmp_path_factory.mktemp("mouse")
    in_mouse(cells).write_h5ad(folder / "mouse.h5ad")
    ingest([folder / "mouse.h5ad"], folder / "corpus", species="mouse")
    data = dataclasses.replace(trained.config.data, corpus=str(folder / "corpus"))
    run = dataclasses.replace(trained.config.run, steps=1)
    train(dataclasses.replace(trained.config, data=data, run=run), folder / "run", quiet=True)
    return folder / "run", folder / "mouse.h5ad"


@pytest.mark.slow
def test_a_model_knows_its_species(of_mouse, cells, trained, tmp_path):
    workdir, path = of_mouse
    record = json.loads((workdir / "config.json").read_text())
    assert (record["species"], record["gene_table"]) == ("mouse", gene_table("mouse").version)
    report = load(workdir).embed(path, quiet=True).report
    assert (report["species"], report["features_matched"]) == ("mouse", cells.n_vars)
    assert report["gene_table"] == gene_table("mouse").version
    cells.write_h5ad(tmp_path / "human.h5ad")
    with pytest.raises(InputError, match=r"are human genes .* and mouse ones are expected"):
        load(workdir).embed(tmp_path / "human.h5ad", quiet=True)


def test_a_run_that_does_not_say_its_species_has_that_of_its_genes(of_mouse, trained, tmp_path):
    for workdir, species in ((of_mouse[0], "mouse"), (trained.workdir, "human")):
        old = tmp_path / species
        old.mkdir()
        record = json.loads((workdir / "config.json").read_text())
        del record["species"], record["gene_table"]
        (old / "config.json").write_text(json.dumps(record))
        shutil.copy(workdir / "genes.parquet", old)
        assert read_gene_table(old) is gene_table(species)


def test_not_a_workdir(tmp_path, snapshot):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"neither a run nor a bundle.*--workdir"):
            load(folder)
    assert snapshot(tmp_path) == {}


def test_loading_is_quiet(trained, caplog):
    """Orbax tells its deprecations through absl's logger, not as warnings."""
    load(trained.workdir)
    assert not [message for message in caplog.messages if "deprecated" in message]


def test_a_checkpoint_that_is_not_there(trained, snapshot):
    before = snapshot(trained.workdir)
    with pytest.raises(InputError, match=r"no checkpoint of step 4 \(there are: 3, 6\)"):
        load(trained.workdir, step=4)
    assert snapshot(trained.workdir) == before


def test_steps_differ_and_the_best_is_taken(trained, cells, tmp_path):
    cells.write_h5ad(tmp_path / "in.h5ad")
    three, six = (load(trained.workdir, step=step).embed(tmp_path / "in.h5ad", quiet=True) for step in (3, 6))
    assert np.abs(three.embedding_NE - six.embedding_NE).max() > 100 * TOLERANCE
    best = load(trained.workdir)
    chosen = {3: three, 6: six}[best.step]
    np.testing.assert_array_equal(best.embed(tmp_path / "in.h5ad", quiet=True).embedding_NE, chosen.embedding_NE)
