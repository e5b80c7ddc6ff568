"""Features as rows of a gene table: what they speak of, whatever table it is."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.batches.spaces import LINKS, Identities, identities, known_share, make_space, of_measured
from mofm.errors import InputError
from mofm.omics.genome import gene_table
from mofm.omics.links import FEATURES

TABLE = gene_table("human")


def space_of(modality, ids, known=None):
    """The features in a gene table of `known` identities; of all that they speak of, where None."""
    found = identities(modality, ids, TABLE)
    names = list(dict.fromkeys(found.identity_E)) if known is None else known
    return names, make_space(found, {name: row for row, name in enumerate(names)})


def genes_of(names, space, feature):
    return {names[g]: w for g, w in zip(space.genes_FK[feature], space.weights_FK[feature], strict=True) if w > 0}


def id_of(symbol):
    return TABLE.gene_ids[TABLE.row_of_symbol[symbol]]


def place_of(symbol, shift=0, width=500, table=TABLE):
    gene = table.frame.iloc[table.row_of_symbol[symbol]]
    start = int(gene["start"] if gene["strand"] == "+" else gene["end"]) + shift
    return f"{gene['chrom']}:{start}-{start + width}"


def test_a_protein_is_the_mean_of_the_genes_that_encode_it():
    names, space = space_of("adt", ["CD3", "CD19", "rat IgG2b control"])
    assert genes_of(names, space, 1) == {id_of("CD19"): 1.0}
    assert set(genes_of(names, space, 0)) <= {id_of(s) for s in ("CD3D", "CD3E", "CD3G", "CD247")}
    assert len(genes_of(names, space, 0)) > 1
    assert list(genes_of(names, space, 2)) == ["adt:rat IgG2b control"]
    np.testing.assert_allclose(space.weights_FK.sum(axis=1), 1.0, rtol=1e-6)
    assert not space.place_FP.any()


def test_a_peak_at_a_start_speaks_of_that_gene_most():
    names, space = space_of("atac", [place_of("CD19"), place_of("MS4A1"), "chr1:123400000-123400500"])
    for feature, symbol in enumerate(("CD19", "MS4A1")):
        weights = genes_of(names, space, feature)
        assert max(weights, key=weights.get) == id_of(symbol)
    assert not space.weights_FK[2].any()
    assert space.genes_FK.shape == (3, LINKS)


def test_each_build_is_linked_to_the_genes_as_placed_in_it():
    """Places of one gene in two builds speak of it alike; one place in two builds speaks of other genes."""
    older = gene_table("human", "GRCh37")
    new, old = place_of("CD19"), place_of("CD19", table=older)
    assert new != old
    ids = [f"GRCh37_{old}", f"GRCh38_{new}", f"GRCh37_{new}", new, "chr1:9-5", f"GRCh38_{place_of('MS4A1')}"]
    names, space = space_of("atac", ids)
    for feature in (0, 1, 3):
        weights = genes_of(names, space, feature)
        assert max(weights, key=weights.get) == id_of("CD19")
    assert genes_of(names, space, 2) != genes_of(names, space, 1) == genes_of(names, space, 3)
    assert not space.weights_FK[4].any()
    assert max(genes_of(names, space, 5), key=genes_of(names, space, 5).get) == id_of("MS4A1")
    for feature, name in enumerate(ids):  # company changes nothing
        alone = space_of("atac", [name], names)[1]
        for part in ("genes_FK", "weights_FK", "place_FP", "bucket_F"):
            np.testing.assert_array_equal(getattr(alone, part)[0], getattr(space, part)[feature])
    found = identities("atac", ids, TABLE)
    assert (np.diff(found.feature_E) >= 0).all()


def test_a_build_of_another_species_has_no_genes_here():
    with pytest.raises(InputError, match="no human genes placed in build 'GRCm38'"):
        identities("atac", ["GRCm38_chr1:100-200"], TABLE)


def test_what_the_table_does_not_have_is_left_out_and_the_rest_sums_to_one():
    ids = [place_of("CD19"), place_of("MS4A1")]
    known = [id_of("CD19")]
    _, space = space_of("atac", ids, known)
    assert known_share(space).tolist() == [True, False]
    assert space.weights_FK[0].sum() == pytest.approx(1.0)


@settings(deadline=None, max_examples=20)
@given(shift=st.integers(-60_000, 60_000), symbol=st.sampled_from(["CD19", "GATA1", "LYZ", "FOXP3"]))
def test_one_base_moves_a_peak_little_and_a_megabase_wholly(shift, symbol):
    here, next_to, away = (place_of(symbol, shift + by) for by in (0, 1, 1_000_000))
    names, space = space_of("atac", [here, next_to, away])

    def dense(feature):
        row = np.zeros(len(names) + 1)
        np.add.at(row, space.genes_FK[feature], space.weights_FK[feature])
        return row

    assert np.abs(dense(0) - dense(1)).sum() < 0.02
    assert np.abs(space.place_FP[0] - space.place_FP[1]).max() < 0.02
    if dense(0).any():
        assert np.abs(dense(0) - dense(2)).sum() > 0.9


def test_buckets_follow_the_name_alone():
    names = [place_of("CD19"), place_of("LYZ")]
    one, other = space_of("atac", names)[1], space_of("atac", names[::-1])[1]
    assert one.bucket_F.tolist() == other.bucket_F[::-1].tolist()
    assert one.bucket_F[0] != one.bucket_F[1]


def test_buckets_are_of_the_bare_place_but_in_another_build_than_the_tables():
    place = "chr1:1000-1500"
    space = space_of("atac", [f"GRCh38_{place}", place, f"GRCh37_{place}"])[1]
    assert [
        zlib.crc32(name.encode()) & 0x7FFFFFFF for name in (place, place, f"GRCh37_{place}")
    ] == space.bucket_F.tolist()


def test_methylation_of_genes_is_the_same_beside_regions():
    gene, unknown, region = id_of("CD19"), "no gene", f"GRCh38_{place_of('MS4A1')}"
    names, space = space_of("methylation", [gene, region, unknown, "chr1:9-5"])
    assert genes_of(names, space, 0) == {gene: 1.0}
    assert max(genes_of(names, space, 1), key=genes_of(names, space, 1).get) == id_of("MS4A1")
    assert not space.weights_FK[2:].any()
    for feature, name in enumerate([gene, region]):
        alone = space_of("methylation", [name], names)[1]
        for part in ("genes_FK", "weights_FK", "place_FP", "bucket_F"):
            np.testing.assert_array_equal(getattr(alone, part)[0], getattr(space, part)[feature])
    names, space = space_of("methylation", [gene, unknown])
    assert [genes_of(names, space, feature) for feature in (0, 1)] == [{gene: 1.0}, {unknown: 1.0}]
    assert not space_of("atac", [gene, region])[1].weights_FK[0].any()


def test_a_feature_near_a_measured_gene_speaks_of_no_other():
    """Three peaks: near measured genes and others, near others alone, near measured ones alone."""
    found = Identities(
        feature_E=np.array([0, 0, 0, 1, 1, 2]),
        identity_E=np.array(["a", "x", "b", "x", "y", "b"], dtype=object),
        weight_E=np.array([0.5, 1.0, 0.25, 1.0, 0.5, 0.1], np.float32),
        place_FP=np.zeros((3, len(FEATURES)), np.float32),
        name_F=np.array(["p", "q", "r"], dtype=object),
    )
    kept = of_measured(found, {"a", "b", "c"})
    assert list(zip(kept.feature_E.tolist(), kept.identity_E, strict=True)) == [
        (0, "a"), (0, "b"), (1, "x"), (1, "y"), (2, "b"),
    ]  # fmt: skip
    space = make_space(kept, {name: row for row, name in enumerate("abcxy")})
    np.testing.assert_allclose(space.weights_FK[:, :2].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(space.weights_FK[0, :3], [2 / 3, 1 / 3, 0], rtol=1e-6)
    unchanged = of_measured(found, frozenset())
    assert unchanged.identity_E.tolist() == found.identity_E.tolist()
