"""Fragments are counted as SnapATAC2's paired insertions are, in whole tiles or given peaks; bad files are told before."""

import builtins
import json

import numpy as np
import pandas as pd
import pytest

from mofm.errors import InputError
from mofm.omics.describe import describe
from mofm.omics.readers import Reading, find_layout, open_tables
from mofm.omics.survey import survey

snapatac2 = pytest.importorskip("snapatac2", reason="SnapATAC2 is not installed (pip install 'mofm[atac]')")


@pytest.fixture
def cells(barcodes) -> list[str]:
    return barcodes(12)


@pytest.fixture
def table(cells, barcodes, draw_fragments) -> pd.DataFrame:
    """6,000 fragments of 12 cells, and one or two of each of 50 empty droplets."""
    drops = draw_fragments(barcodes(50, seed=5), 80, seed=2)
    both = pd.concat([draw_fragments(cells), drops])
    return both.sort_values(["chrom", "start", "end"], kind="stable", ignore_index=True)


@pytest.fixture
def path(tmp_path, table, write_fragments):
    return write_fragments(tmp_path / "fragments.tsv.gz", table)


def paired_insertions(table: pd.DataFrame, cells: list[str], regions: list[str]) -> np.ndarray:
    """Fragments with one insertion or both in each region, counted one by one."""
    counts = np.zeros((len(cells), len(regions)), np.int64)
    for column, region in enumerate(regions):
        chrom, place = region.split(":")
        start, end = map(int, place.split("-"))
        first, last = table["start"], table["end"] - 1
        inside = ((first >= start) & (first < end)) | ((last >= start) & (last < end))
        of_cell = table["barcode"][inside & (table["chrom"] == chrom)].value_counts()
        counts[:, column] = of_cell.reindex(cells, fill_value=0)
    return counts


def refusal(path, **options) -> str:
    """The one line that refuses the file."""
    with pytest.raises(InputError) as caught, open_tables(path, Reading(**options)):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("bgzipped", [True, False])
def test_tiles(tmp_path, table, cells, write_fragments, dense_rows, bgzipped):
    path = write_fragments(tmp_path / "fragments.tsv", table, bgzipped)
    with open_tables(path, Reading(tile_width=1000)) as (opened,):
        assert (opened.modality, opened.kind) == ("atac", "fragments")
        assert opened.obs.index.tolist() == sorted(cells)
        assert opened.obs["fragments"].tolist() == table["barcode"].value_counts()[sorted(cells)].tolist()
        tiles = opened.var.index.tolist()
        assert all(name.split("-")[0].endswith("000") or ":0-" in name for name in tiles)
        assert not any(name.startswith("chrM") for name in tiles)
        counts, _ = dense_rows(opened)
        np.testing.assert_array_equal(counts, paired_insertions(table, sorted(cells), tiles))
        every = [f"chr{c}:{s}-{s + 1000}" for c in (1, 2) for s in range(0, 102_000, 1000)]
        assert set(tiles) == {
            name for name, n in zip(every, paired_insertions(table, cells, every).sum(0), strict=True) if n
        }
        assert f"{(table['chrom'] == 'chrM').sum()} fragments on chrM are left out" in opened.notes
        assert any("12 of 54 barcodes are of at least 200 fragments" in note for note in opened.notes)


def test_peaks(tmp_path, path, table, cells, dense_rows):
    peaks = ["chr1:100-900", "chr2:5000-9000", "chr1:20000-20500", "chr3:5-50"]
    bed = "".join(peak.replace(":", "\t").replace("-", "\t") + "\tpeak\n" for peak in [*peaks, peaks[0]])
    (tmp_path / "peaks.bed").write_text(f"# peaks\n{bed}")
    with open_tables(path, Reading(peaks=tmp_path / "peaks.bed")) as (opened,):
        assert opened.var.index.tolist() == peaks
        np.testing.assert_array_equal(dense_rows(opened)[0], paired_insertions(table, sorted(cells), peaks))


def test_which_barcodes_are_cells(tmp_path, path, cells, table):
    (tmp_path / "barcodes.tsv").write_text("\n".join([*cells[:5], "AAAA-1"]) + "\n")
    with open_tables(path, Reading(barcodes=tmp_path / "barcodes.tsv")) as (opened,):
        assert opened.obs.index.tolist() == sorted(cells[:5])
    with open_tables(path, Reading(min_fragments=1)) as (opened,):
        assert set(opened.obs.index) == set(table["barcode"])
    assert "lower --min-fragments" in refusal(path, min_fragments=100_000)
    (tmp_path / "barcodes.tsv").write_text("TTTT-1\n")
    assert "are they of this sample (first: 'TTTT-1')" in refusal(path, barcodes=tmp_path / "barcodes.tsv")


def test_rare_tiles_are_left_out_and_counted(path, monkeypatch):
    with open_tables(path) as (every,):
        n_tiles = every.n_features
    monkeypatch.setattr("mofm.omics.fragments.MIN_CELL_SHARE", 0.9)
    with open_tables(path) as tables:
        assert 0 < tables[0].n_features < n_tiles
        assert tables.left_out == {"tiles in fewer than 11 cells": n_tiles - tables[0].n_features}


def test_a_folder_of_cell_ranger_with_fragments_and_no_peaks(
    tmp_path, tenx, table, write_10x_h5, write_fragments, draw_fragments
):
    genes = [place for place, kind in enumerate(tenx.kinds) if kind == "Gene Expression"]
    rna = tenx._replace(
        counts=tenx.counts[:, genes], ids=tenx.ids[:30], names=tenx.names[:30], kinds=["Gene Expression"] * 30
    )
    write_10x_h5(tmp_path / "filtered_feature_bc_matrix.h5", rna)
    others = ["GGGGGGGGGGGGGGGG-1"]
    write_fragments(tmp_path / "atac_fragments.tsv.gz", draw_fragments(tenx.barcodes[:30] + others))
    with open_tables(tmp_path) as tables:
        assert [table.modality for table in tables] == ["rna", "atac"]
        assert set(tables[1].obs.index) == set(tenx.barcodes[:30])
    write_10x_h5(tmp_path / "filtered_feature_bc_matrix.h5", tenx)
    assert find_layout(tmp_path).fragments is None
    with open_tables(tmp_path, Reading(tile_width=2000)) as tables:
        assert [table.modality for table in tables] == ["rna", "atac", "adt"]
        assert tables[1].var.index[0] == "chr1:0-2000"
        assert "Peaks" not in tables.left_out


def test_a_survey(path, table):
    found = survey(path)
    assert found.fragments == len(table)
    assert found.per_chromosome == table["chrom"].value_counts().to_dict()
    assert found.lengths == table.groupby("chrom")["end"].max().to_dict()
    assert found.per_barcode.to_dict() == table["barcode"].value_counts().to_dict()


def test_small_blocks_are_the_same(path, monkeypatch):
    whole = survey(path)
    monkeypatch.setattr("mofm.omics.survey._TEXT_BYTES", 1_000)
    cut = survey(path)
    assert (cut.fragments, cut.lengths) == (whole.fragments, whole.lengths)
    pd.testing.assert_series_equal(cut.per_barcode, whole.per_barcode)


def test_a_report(path):
    report = json.loads(json.dumps(describe(path)))
    assert report["usable"]
    assert "6,080 fragments of 54 barcodes on 3 chromosomes; 12 barcodes have 200 or more" in report["why"]


# --- what is wrong is told ---


@pytest.mark.parametrize("fault", ["start", "chromosome", "chromosome again"])
def test_fragments_out_of_order(tmp_path, table, write_fragments, monkeypatch, fault):
    monkeypatch.setattr("mofm.omics.survey._TEXT_BYTES", 10_000)
    if fault == "start":
        table.loc[3000, "start"] = table.loc[2998, "start"] - 1
    elif fault == "chromosome":
        table = table.sort_values("start", kind="stable")
    else:
        table = pd.concat([table, table.iloc[:1]])
    line = refusal(write_fragments(tmp_path / "fragments.tsv.gz", table))
    assert "not sorted: fragment " in line
    assert "bgzip" in line
    if fault == "start":
        assert "fragment 3,001" in line


@pytest.mark.parametrize("share", [0.2, 0.7, 0.999])
@pytest.mark.parametrize("bgzipped", [True, False])
def test_fragments_that_are_cut_short(tmp_path, table, write_fragments, bgzipped, share):
    path = write_fragments(tmp_path / "fragments.tsv.gz", table, bgzipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole)) - (not bgzipped)])
    assert "cut short" in refusal(path)


def test_the_last_block_of_bgzip_alone_is_missing(path):
    path.write_bytes(path.read_bytes()[:-28])
    assert "the block that bgzip ends a file with is missing" in refusal(path)


def test_lines_that_are_no_fragments(tmp_path, table, write_fragments):
    table.loc[100, "end"] = table.loc[100, "start"]
    assert "fragment 101 is none" in refusal(write_fragments(tmp_path / "a.tsv.gz", table))
    words = write_fragments(tmp_path / "b.tsv.gz", table.astype({"start": object}).replace({"start": {}}))
    text = words.with_name("c.tsv")
    text.write_text("chr1\t5\t90\tAAA\t1\nchr1\tfive\t90\tAAA\t1\n")
    assert "cut short or damaged" in refusal(text)


def test_peaks_without_coordinates(tmp_path, path):
    (tmp_path / "peaks.bed").write_text("peak_1\npeak_2\n")
    assert "peaks without coordinates" in refusal(path, peaks=tmp_path / "peaks.bed")


def test_a_missing_library_is_named(path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "snapatac2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'mofm[atac]'" in refusal(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"peaks": "a.bed", "tile_width": 500}, "give one"),
        ({"tile_width": 3}, "--tile-width 3: must be at least 50"),
        ({"min_fragments": 0}, "--min-fragments 0"),
        ({"modality": "protein"}, "--modality protein: must be one of rna, atac"),
    ],
)
def test_options_without_meaning(options, words):
    with pytest.raises(InputError, match=words):
        Reading(**options)


def test_mitochondrial_fragments_alone(tmp_path, table, write_fragments):
    path = write_fragments(tmp_path / "a.tsv.gz", table[table["chrom"] == "chrM"])
    assert "all fragments are mitochondrial" in refusal(path, min_fragments=1)
