"""A species that mofm does not ship, from its annotation to embedded cells: the table is named once, at the first ingest."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from commands import run
from scipy import sparse

from mofm.batches.spaces import corpus_spaces
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.inference.model import load
from mofm.omics.genome import gene_table
from mofm.omics.readers import Reading

SMALL = Path(__file__).parent.parent / "configs" / "small.py"
GENES = 40
TINY = {
    **{"data.batch_size": 16, "data.tokens": 24, "data.quota_multiple": 8, "run.steps": 1, "run.eval_every": 0},
    **{"encoder.width": 16, "encoder.blocks": 1, "encoder.heads": 2, "encoder.ffn": 24, "encoder.cell_width": 8},
}


def write_cells(path, names, prefix) -> Path:
    counts = np.random.default_rng(len(prefix)).poisson(1.0, (30, len(names))) + 1.0
    obs = pd.DataFrame(index=[f"{prefix}{i}" for i in range(30)])
    ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs, pd.DataFrame(index=names)).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The annotation of a fish, the table made of it, cells by symbol and by id, peaks at its genes, and a bad file."""
    folder = tmp_path_factory.mktemp("fish")
    attributes = 'gene_id "ENSDARG{0:011}"; gene_version "2"; gene_name "fish{0}"; gene_biotype "protein_coding";'
    line = "{1}\tensembl\tgene\t{2}\t{3}\t.\t+\t.\t" + attributes + "\n"
    text = "".join(line.format(i, 1 + i % 3, 100_000 * i + 50_001, 100_000 * i + 60_000) for i in range(GENES))
    (folder / "Fish.gtf").write_text(text)
    write_cells(folder / "rna.h5ad", [f"fish{i}" for i in range(GENES)], "r")
    write_cells(folder / "ids.h5ad", [f"ENSDARG{i:011}.2" for i in range(GENES)], "id")
    places = [f"{1 + i % 3}:{100_000 * i + 50_000}-{100_000 * i + 50_500}" for i in range(GENES)]
    write_cells(folder / "atac.h5ad", places, "ata")
    write_cells(folder / "mouse.h5ad", gene_table("mouse").gene_ids[:GENES], "mice")
    return folder


@pytest.fixture(scope="module")
def table(folder):
    """The table that the error about the annotation tells how to make, made by that very command."""
    import runpy
    import sys

    with pytest.raises(InputError, match=r"Fish\.gtf: an annotation, .*build_gene_table fish .*--species") as error:
        gene_table(folder / "Fish.gtf")
    command = str(error.value).split("python -m mofm.omics.build_gene_table ")[1].split(";")[0]
    words = command.replace("fish.parquet", str(folder / "fish.parquet")).split(" --release")[0].split()
    argv, sys.argv = sys.argv, ["build_gene_table", *words, "--release", "Ensembl 1 (GRCf1)"]
    try:
        with pytest.raises(SystemExit) as done:
            runpy.run_module("mofm.omics.build_gene_table", run_name="__main__")
    finally:
        sys.argv = argv
    assert done.value.code == 0
    return folder / "fish.parquet"


@pytest.fixture(scope="module")
def model(folder, table):
    """A run on its RNA and peaks. The table is gone when it is trained, and the corpus when it embeds."""
    corpus = folder / "corpus"
    run("ingest", folder / "rna.h5ad", corpus, "--species", table)
    run("ingest", folder / "atac.h5ad", corpus, "--modality", "atac")
    table.rename(folder / "elsewhere.parquet")
    try:
        words = [f"--config.{key}={value}" for key, value in TINY.items()]
        run(
            "train", "--config", SMALL, f"--config.data.corpus={corpus}", "--workdir", folder / "run", "--quiet", *words
        )
    finally:
        (folder / "elsewhere.parquet").rename(table)
    return folder / "run"


def test_the_corpus_keeps_the_table_and_links_peaks_by_it(folder, table, model):
    corpus = open_corpus(folder / "corpus")
    assert (folder / "corpus" / "gene_table.parquet").read_bytes() == table.read_bytes()
    assert corpus.manifest.species == "fish"
    assert corpus.features["id"].tolist()[:3] == [f"ENSDARG{i:011}" for i in range(3)]
    genes, spaces = corpus_spaces(corpus)
    strongest = genes["symbol"].to_numpy()[spaces["atac"].genes_FK[:, 0]]
    assert strongest.tolist() == [f"fish{i}" for i in range(GENES)]
    assert "taken to be of the build of the fish genes, Ensembl 1 (GRCf1)" in corpus.stores[1].entry.build_evidence


def test_a_model_embeds_its_species_without_an_option(folder, table, model, tmp_path):
    hidden = tmp_path / "elsewhere"
    (folder / "corpus").rename(hidden)
    try:
        run("embed", model, folder / "ids.h5ad", tmp_path / "out.h5ad")
        report = ad.read_h5ad(tmp_path / "out.h5ad").uns["mofm"]
        assert (report["species"], report["features_matched"]) == ("fish", GENES)
        peaks = load(model).embed(folder / "atac.h5ad", Reading("atac"), quiet=True)
        assert peaks.report["features_matched"] == GENES
        with pytest.raises(InputError, match=r"are mouse genes .* and fish ones are expected"):
            load(model).embed(folder / "mouse.h5ad", quiet=True)
    finally:
        hidden.rename(folder / "corpus")


@pytest.mark.slow
def test_processes_find_the_table_in_the_corpus(folder, table, tmp_path):
    files = (folder / "rna.h5ad", folder / "ids.h5ad")
    for jobs in ("1", "2"):
        run("ingest", *files, tmp_path / jobs, "--species", table, "--jobs", jobs)
    one, two = (
        {
            path.relative_to(tmp_path / jobs): path.read_bytes()
            for path in (tmp_path / jobs).rglob("*")
            if path.is_file()
        }
        for jobs in ("1", "2")
    )
    assert one == two
    assert len(open_corpus(tmp_path / "2").features) == GENES


def test_inspect_by_a_table(folder, table, capsys):
    run("inspect", "--json", folder / "rna.h5ad", "--modality", "rna", "--species", table)
    features = json.loads(capsys.readouterr().out)["features"]["rna"]
    assert (features["species"], features["unresolved"]) == ("fish", 0)


def test_another_table_is_refused(folder, table, model):
    for species in ("human", folder / "other.parquet"):
        if species != "human":  # the same name and release, one gene fewer
            gtf = folder / "Other.gtf"
            gtf.write_text("".join((folder / "Fish.gtf").read_text().splitlines(keepends=True)[1:]))
            from mofm.omics.build_gene_table import build_gene_table

            said = {"release": "Ensembl 1 (GRCf1)", "source": "Fish.gtf", "licence": "unknown"}
            build_gene_table("fish", gtf, None, species, **said)
        with pytest.raises(InputError, match="a corpus has one table: leave --species out"):
            ingest([folder / "ids.h5ad"], folder / "corpus", species=species)


def test_a_table_of_its_own_leaves_nothing_where_nothing_is_ingested(folder, table, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mofm.corpus.writer.write_obs", full)
        with pytest.raises(InputError, match="disk is full"):
            ingest([folder / "rna.h5ad"], tmp_path / "corpus", species=table)
    assert not (tmp_path / "corpus").exists()
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "gene_table.parquet").write_bytes(table.read_bytes())  # of an ingest that was killed
    ingest([folder / "mouse.h5ad"], tmp_path / "corpus", species="mouse")
    assert not (tmp_path / "corpus" / "gene_table.parquet").exists()
    assert open_corpus(tmp_path / "corpus").manifest.species == "mouse"


def test_a_corpus_without_its_table_is_told(folder, table, tmp_path):
    ingest([folder / "rna.h5ad"], tmp_path / "corpus", species=table)
    (tmp_path / "corpus" / "gene_table.parquet").unlink()
    with pytest.raises(InputError, match=r"gene_table\.parquet: the gene table of its species 'fish' is missing"):
        corpus_spaces(open_corpus(tmp_path / "corpus"))


@pytest.mark.parametrize(
    ("name", "what"), [("absent.parquet", "cannot be read as a gene table"), ("fisch", "FILE.parquet")]
)
def test_no_table(tmp_path, name, what):
    with pytest.raises(InputError, match=what) as error:
        gene_table(tmp_path / name)
    assert "\n" not in str(error.value)
