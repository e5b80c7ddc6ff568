"""A region is its place, whatever its name looks like; the build is told by evidence; a wrong one is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.errors import InputError
from mofm.omics.assemblies import build_table, chromosome_name, chromosome_sizes
from mofm.omics.build_evidence import build_of_names, check_build, find_build
from mofm.omics.builds import SPECIES, build_name
from mofm.omics.genome import gene_table
from mofm.omics.regions import RULES, require_places, resolve_regions, with_build

fast = settings(max_examples=60, deadline=None)
chroms = st.sampled_from([*(f"chr{i}" for i in range(1, 23)), "chrX", "chrM", "KI270728.1", "GL000194.1", "hs37d5"])
starts = st.integers(0, 240_000_000)
widths = st.integers(1, 10_000_000)
spellings = st.sampled_from(["{}:{}-{}", "{}-{}-{}", "{}_{}_{}", "{}:{}..{}", "GRCh38_{}:{}-{}"])


def placed_one(name):
    resolution = resolve_regions([name])
    return resolution.ids[0], str(resolution.rule[0])


@pytest.mark.parametrize(("name", "place"), [
    ("chr1:1-2", "chr1:1-2"),
    ("chr1-1-2", "chr1:1-2"),
    ("chr1_1_2", "chr1:1-2"),
    ("1-1-2", "chr1:1-2"),
    ("1:1-2", "chr1:1-2"),
    ("chr1.100.200", "chr1:100-200"),
    ("chr1:100..200", "chr1:100-200"),
    ("chr1:1,000-2,000", "chr1:1000-2000"),
    ("GRCh38_chr1:1-2", "chr1:1-2"),
    ("hg19___1:1-2", "chr1:1-2"),
    ("b37_1:1-2", "chr1:1-2"),
    ("GRCh38.p14_chr1:1-2", "chr1:1-2"),
    ("grch38_chr1_1_2", "chr1:1-2"),
    ("GRCh38_chr1.1.2", "chr1:1-2"),
    ("mm9_chr1:1-2", "chr1:1-2"),
    ("hs37d5_1_2", "hs37d5:1-2"),
    ("HG19_PATCH:1-2", "HG19_PATCH:1-2"),
    ("HG1042_HG1832_PATCH:1-2", "HG1042_HG1832_PATCH:1-2"),
    ("x-5-9", "chrX:5-9"),
    ("MT-1-5", "chrM:1-5"),
    ("chrMT:1-5", "chrM:1-5"),
    ("GL000194.1-100-200", "GL000194.1:100-200"),
    ("KI270728.1:100-200", "KI270728.1:100-200"),
    ("chr1_KI270706v1_random-1-9", "KI270706.1:1-9"),
    ("chr4_GL456216_random:1-9", "GL456216.1:1-9"),
    ("chrUn_gl000220_1_9", "GL000220.1:1-9"),
    ("hs37d5-1-2", "hs37d5:1-2"),
    ("2L:5-9", "2L:5-9"),
])  # fmt: skip
def test_ways_to_name_a_region(name, place):
    assert placed_one(name) == (place, "name")


@pytest.mark.parametrize("build", [*SPECIES, None])
def test_a_build_stands_before_the_place_and_is_read_back(build):
    found = resolve_regions(["chr1:1-2", "KI270728.1:5-9", "no place", "chr1:9-5"])
    ids = with_build(found, build)
    assert ids[0] == (f"{build}_chr1:1-2" if build else "chr1:1-2")
    assert ids[2:] == ["no place", "chr1:9-5"]
    again = resolve_regions(ids)
    assert again.builds.tolist() == [build or "", build or "", "", ""]
    assert again.ids == found.ids
    assert with_build(again, build) == ids


@pytest.mark.parametrize(("name", "rule"), [
    ("chr1:5-2", "reversed"),
    ("chr1:5-5", "empty"),
    ("chr1:-5-5", "negative"),
    ("chr1:0-99999999", "too_long"),
    ("chr1:3000000000-3000000100", "too_long"),
    ("CD3D", "unknown"),
    ("HLA-A", "unknown"),
    ("KRTAP5-1", "unknown"),
    ("AC002116.1.2", "unknown"),
    ("ENSG00000167286.12", "unknown"),
    ("peak_1", "unknown"),
    ("chr1", "unknown"),
    ("", "unknown"),
])  # fmt: skip
def test_what_tells_no_place_keeps_its_name_and_says_why(name, rule):
    resolution = resolve_regions([name])
    assert (resolution.ids, resolution.rule.tolist()) == ([name], [rule])
    assert resolution.unresolved == [name]
    assert (resolution.chrom[0], resolution.start[0], resolution.end[0]) == ("", -1, -1)


@given(chroms, starts, widths, spellings, spellings)
@fast
def test_every_spelling_is_one_region(chrom, start, width, one, other):
    names = [one.format(chrom, start, start + width), other.format(chrom, start, start + width)]
    resolution = resolve_regions(names)
    assert resolution.ids == [f"{chrom}:{start}-{start + width}"] * 2
    assert resolution.summary()["merged"] == 1
    assert (resolution.start.tolist(), resolution.end.tolist()) == ([start] * 2, [start + width] * 2)
    assert resolve_regions(resolution.ids).ids == resolution.ids


@given(st.lists(st.one_of(st.text(max_size=12), st.builds("{}:{}-{}".format, chroms, starts, starts)), max_size=12))
@fast
def test_every_name_is_accounted_for_and_by_itself(names):
    resolution = resolve_regions(names)
    summary = resolution.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["names"] == len(names) == sum(summary[how] for how in dict.fromkeys(RULES.values()))
    assert resolution.ids == [placed_one(name)[0] for name in names]
    assert set(resolution.unresolved) == {
        region for region, here in zip(resolution.ids, resolution.placed, strict=True) if not here
    }


@pytest.mark.parametrize("columns", [
    {"chrom": ["1", "chrX"], "start": [5, 7], "end": [9, 10]},
    {"#Chrom": ["chr1", "X"], "chromStart": ["5", "7"], "chromEnd": ["9", "1,0"]},
    {"seqnames": ["chr1", "chrX"], "start": [6, 8], "end": [9, 10], "width": [4, 3]},
    {"interval": ["chr1:5-9", "chrX:7-10"]},
])  # fmt: skip
def test_columns_tell_what_names_do_not(columns):
    var = pd.DataFrame(columns, index=["peak_1", "peak_2"])
    resolution = resolve_regions(list(var.index), var)
    assert resolution.ids == ["chr1:5-9", "chrX:7-10"]
    assert set(resolution.how) == {"columns"}


BUILDS_IN_FRONT = {
    **{"GRCh38": "GRCh38", "hg38": "GRCh38", "grch38": "GRCh38", "GRCh38.p14": "GRCh38", "HG38": "GRCh38"},
    **{"hg19": "GRCh37", "b37": "GRCh37", "hs37d5": "GRCh37", "humanG1Kv37": "GRCh37", "mm10": "GRCm38"},
    **{
        "mm9": "mm9",
        "hg18": "hg18",
        "GRCm37": "GRCm37",
        "GRCz11": "GRCz11",
        "danRer11": "danRer11",
        "NCBI36": "NCBI36",
    },
    **{"GRCz11.p2": "GRCz11", "rn6": "rn6", "T2T-CHM13v2.0": "T2T-CHM13v2.0"},
}


@pytest.mark.parametrize(("written", "build"), BUILDS_IN_FRONT.items())
@pytest.mark.parametrize("read_from", ["names", "interval", "chrom"])
def test_what_is_told_of_a_build_is_taken_off_the_place(written, build, read_from):
    """What is told is taken off and what is taken off is told, wherever the place is read."""
    names = [f"{written}_chr1:100-200", f"{written}___X:5-9"]
    var = pd.DataFrame(index=["p0", "p1"])
    if read_from == "names":
        var = pd.DataFrame(index=names)
    elif read_from == "interval":
        var["interval"] = names
    else:
        var["chrom"], var["start"], var["end"] = [f"{written}_chr1", f"{written}_X"], [100, 5], [200, 9]
    found = resolve_regions(var.index, var)
    assert found.ids == ["chr1:100-200", "chrX:5-9"]
    assert found.builds.tolist() == [build, build]
    assert build_of_names(found, "a.h5ad") == build
    if build not in SPECIES:
        with pytest.raises(InputError, match=rf"a\.h5ad: .* of {build}, by the file, .*liftOver.*--species") as error:
            check_build(found, None, "a.h5ad")
        assert "\n" not in str(error.value)


def test_names_come_before_columns_and_missing_columns_place_nothing():
    var = pd.DataFrame({"chrom": ["chr2", "chr2", None], "start": [1, 1, 1], "end": [2, 2, np.nan]})
    resolution = resolve_regions(["chr1:5-9", "a", "b"], var)
    assert resolution.ids == ["chr1:5-9", "chr2:1-2", "b"]
    assert resolution.how.tolist() == ["name", "columns", "unresolved"]


def test_regions_without_places_are_refused():
    with pytest.raises(InputError, match=r"file\.h5ad: none of 2 regions .*'peak_1'.*columns chrom") as error:
        require_places(resolve_regions(["peak_1", "peak_2"]), "file.h5ad")
    assert "\n" not in str(error.value)
    require_places(resolve_regions(["peak_1", "chr1:1-2"]), "one is enough")
    assert not resolve_regions([]).ids


def test_chromosomes_are_named_as_in_the_gene_tables():
    for build in SPECIES:
        assert set(build_table(build).frame["chrom"].cat.categories) <= set(chromosome_sizes(build)), build
    assert chromosome_sizes("GRCh38")["chr1"] == 248_956_422
    assert chromosome_sizes("GRCm38")["chr19"] == 61_431_566
    assert chromosome_name("chrUn_KI270742v1") == "KI270742.1"


def test_genes_lie_within_their_chromosomes():
    for build in SPECIES:
        frame = build_table(build).frame
        placed = frame[frame["start"] >= 0]
        sizes = placed["chrom"].astype(str).map(chromosome_sizes(build))
        assert (placed["end"] <= sizes).all(), build


@pytest.mark.parametrize(("name", "build"), [
    ("hg38", "GRCh38"), ("GRCh38.p14", "GRCh38"), ("grch37", "GRCh37"), ("hg19", "GRCh37"),
    ("mm10", "GRCm38"), ("GRCm38.p6", "GRCm38"), ("MM39", "GRCm39"),
])  # fmt: skip
def test_names_of_builds(name, build):
    assert build_name(name) == build


def test_unknown_build_names_the_option():
    with pytest.raises(InputError, match=r"'hg40'; give --build one of GRCh38.*Did you mean 'hg"):
        build_name("hg40")


def peaks_of(build, n, seed=0):
    """Names of regions as chromatin opens: a third at starts of coding genes, the rest anywhere near genes."""
    rng = np.random.default_rng(seed)
    frame = build_table(build).frame
    coding = frame[(frame["biotype"] == "protein_coding") & frame["chrom"].notna()].sample(n, random_state=seed)
    coding = coding[~coding["chrom"].isin(["chrM"])]
    starts = coding["start"].where(coding["strand"] == "+", coding["end"] - 1).to_numpy()
    away = np.where(rng.random(len(coding)) < 0.33, rng.integers(-300, 300, len(coding)), 0)
    away = np.where(away == 0, rng.integers(-90_000, 90_000, len(coding)), away)
    middles = np.maximum(starts + away, 300)
    return [f"{chrom}:{middle - 250}-{middle + 250}" for chrom, middle in zip(coding["chrom"], middles, strict=True)]


@pytest.mark.parametrize("build", SPECIES)
def test_build_is_found_from_peaks(build):
    evidence = find_build(resolve_regions(peaks_of(build, 3000)))
    assert evidence.build == build, evidence.sentence
    assert evidence.species == SPECIES[build]
    assert evidence.sentence.startswith(f"{build}: ")
    assert "by chance" in evidence.sentence


@pytest.mark.parametrize("build", SPECIES)
@pytest.mark.parametrize("whole", [True, False])
def test_build_is_found_from_tiles(build, whole):
    names = []
    for chrom in ("chr10", "chr14", "chr16", "chr19", "chrX"):
        size = chromosome_sizes(build)[chrom]
        starts = np.arange(0, size, 10_000)
        ends = starts + 10_000 if whole else np.minimum(starts + 10_000, size)
        names += [f"{chrom}:{start}-{end}" for start, end in zip(starts, ends, strict=True)]
    evidence = find_build(resolve_regions(names))
    assert evidence.build == build, evidence.sentence


@pytest.mark.parametrize("build", SPECIES)
def test_wrong_build_is_refused_and_the_right_one_named(build):
    regions = resolve_regions(peaks_of(build, 3000, seed=1))
    for other in SPECIES:
        if other == build:
            evidence = check_build(regions, other, "a.h5ad")
            assert evidence.given
            assert evidence.sentence.startswith(f"{build}, given: ")
            assert "by chance" in evidence.sentence
            continue
        with pytest.raises(InputError, match=rf"a\.h5ad: the regions are not of {other}: .*give --build {build}$") as e:
            check_build(regions, other, "a.h5ad")
        assert "\n" not in str(e.value)


def test_a_wrong_build_in_the_names_is_refused():
    regions = resolve_regions([f"hg19_{name}" for name in peaks_of("GRCh38", 3000)])
    with pytest.raises(InputError, match=r"not of GRCh37 as the file says: .*; mend the build in the names") as error:
        check_build(regions, None, "a.h5ad")
    assert "--build" not in str(error.value)


def test_regions_that_tell_nothing_have_no_build_and_take_the_given_one():
    rng = np.random.default_rng(0)
    regions = resolve_regions([f"chr1:{start}-{start + 500}" for start in rng.integers(10**6, 10**8, 500)])
    evidence = check_build(regions, None, "a.h5ad")
    assert evidence.build is None
    assert "cannot be inferred" in evidence.sentence
    given = check_build(regions, "hg19", "a.h5ad")
    assert (given.build, given.sentence) == ("GRCh37", "GRCh37, given")
    assert find_build(resolve_regions([])).build is None


def test_a_hit_or_two_near_genes_tell_no_build():
    frame = gene_table("human").frame
    genes = frame[(frame["biotype"] == "protein_coding") & (frame["strand"] == "+")].iloc[::97]
    peaks = [f"{chrom}:{start}-{start + 200}" for chrom, start in zip(genes["chrom"], genes["start"], strict=True)]
    assert find_build(resolve_regions(peaks)).build == "GRCh38"
    for some in (peaks[:1], peaks[:3]):
        assert find_build(resolve_regions(some)).build is None
        assert check_build(resolve_regions(some), "GRCh37", "a.h5ad").build == "GRCh37"


@pytest.mark.parametrize(("name", "build"), [("a549_scicar.h5mu", "GRCh37"), ("multiome_S1.h5mu", "GRCh38")])
@pytest.mark.skipif("MOFM_DATA" not in os.environ, reason="MOFM_DATA is not set: real peaks not looked for")
def test_build_of_real_peaks(name, build):
    path = Path(os.environ["MOFM_DATA"]) / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    import h5py

    with h5py.File(path) as file:
        var = file["mod/atac/var"]
        names = var[var.attrs["_index"]].asstr()[:]
    regions = resolve_regions(names)
    assert regions.placed.all()
    assert find_build(regions).build == build
    few = resolve_regions(np.random.default_rng(0).choice(names, 300, replace=False))
    assert find_build(few).build == build
    for other in SPECIES.keys() - {build}:
        with pytest.raises(InputError, match=f"give --build {build}"):
            check_build(regions, other, name)


def test_a_build_in_the_column_genome_is_told_like_one_in_the_names():
    """As Cell Ranger writes it; a reference that a lab gave a name of its own tells nothing."""
    var = pd.DataFrame({"genome": ["hg19", "my_reference", "GRCh38.p14", "mm9"]})
    found = resolve_regions(["chr1:5-900", "chr1:5-900", "mm10_chr1:5-900", "no place"], var)
    assert found.builds.tolist() == ["GRCh37", "", "GRCm38", ""]
    evidence = check_build(resolve_regions(["chr1:5-900"], var[:1]), None, "a.h5")
    assert (evidence.build, evidence.sentence) == ("GRCh37", "GRCh37, named by the file")
    with pytest.raises(InputError, match=r"a\.h5: the regions are of mm9, by the file"):
        check_build(resolve_regions(["chr1:5-900"], var[3:]), None, "a.h5")
    with pytest.raises(InputError, match="regions of GRCh37 and GRCh38, by the file"):
        check_build(resolve_regions(["chr1:5-900", "chr2:5-900"], var[[True, False, True, False]]), None, "a.h5")
