"""A manifest says exactly what was written, in the same bytes, and nothing that is not wholly sound is read as one."""

import dataclasses
import json

import pytest

from mofm.corpus.manifest import FORMAT_VERSION, Manifest, StoreEntry, store_name
from mofm.errors import InputError


def entry(name: str = "pbmc", **changes) -> StoreEntry:
    fields = {
        "name": name,
        "modality": "rna",
        "input": "pbmc",
        "kind": "h5mu",
        "source": "pbmc männlich.h5ad",
        "source_bytes": 2**40,
        "digest": "ab" * 32,
        "given": {"tile_width": "500"},
        "cells": 3,
        "features": 2,
        "entries": 4,
        "total_counts": 9,
        "max_count": 300,
        "total_hits": None,
        "counts_from": "layers/counts",
        "hits_from": None,
        "counts_from_given": True,
        "recovered": True,
        "recovered_share": 0.998,
        "empty_cells": 1,
        "build": "GRCh38",
        "build_evidence": "given",
        "features_from": "gene_ids",
        "resolution": {"names": 2, "merged": 0, "by_rule": {"id": 2}},
        "left_out": {"Antibody Capture": 7},
        "obs_converted": ["a/b: renamed a|b"],
        "notes": ["fractions"],
    }
    return StoreEntry(**fields | changes)


def manifest() -> Manifest:
    empty = Manifest("0.1", "human", "GENCODE 48")
    rna, atac = entry("lung", recovered=False, recovered_share=None), entry("lung", modality="atac")
    return empty.with_stores([entry()], 2).with_stores([rna, atac], 5)


def fields() -> dict:
    return json.loads(manifest().to_json())


def refusal(content: dict | bytes) -> str:
    """The one line that refuses this content; it must name the file."""
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(InputError) as caught:
        Manifest.from_json(content, "there/manifest.json")
    line = str(caught.value)
    assert line.startswith("there/manifest.json: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("written", [manifest(), Manifest("0.1", "mouse", "GENCODE M37")])
def test_what_was_written_is_read(written):
    assert Manifest.from_json(written.to_json(), "") == written


def test_the_same_manifest_is_the_same_bytes():
    content = manifest().to_json()
    assert content == manifest().to_json()
    assert content == Manifest.from_json(content, "").to_json()


OTHER = {"name": "lung", "modality": "atac", "recovered_share": 0.5, "resolution": {}, "left_out": {}}
OTHER |= {"obs_converted": [], "counts_from_given": False, "recovered": False, "features_from": "var_names"}
OTHER |= {"source": "other.h5ad", "digest": "cd" * 32, "counts_from": "X", "input": "lungs", "kind": "h5ad"}
OTHER |= {"given": {}, "hits_from": "layers/methylated", "build": None, "build_evidence": "found", "notes": []}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(StoreEntry)])
def test_every_field_of_a_store_is_written(field):
    """A field that changes and leaves the bytes alone would be one that is lost."""
    empty = Manifest("0.1", "human", "GENCODE 48")
    changed = empty.with_stores([entry(**{field: OTHER.get(field, 12345)})], 2)
    assert changed.to_json() != empty.with_stores([entry()], 2).to_json()
    assert Manifest.from_json(changed.to_json(), "") == changed


def test_a_store_is_added_at_the_end():
    before, after = manifest(), manifest().with_stores([entry("kidney")], 9)
    assert after.stores[:-1] == before.stores
    assert (after.stores[-1].path, after.n_features) == ("stores/kidney.rna.zarr", 9)


def test_a_newer_format_asks_for_a_newer_mofm():
    line = refusal(fields() | {"format_version": FORMAT_VERSION + 1, "something": "new"})
    assert "upgrade mofm" in line


@pytest.mark.parametrize("version", [None, 0, -1, True, "1", 1.0])
def test_no_format_version_is_no_manifest(version):
    assert "not the manifest of a corpus" in refusal(fields() | {"format_version": version})


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b'{"a": 1}'])
def test_other_json_is_no_manifest(content):
    assert "not the manifest of a corpus" in refusal(content)


def test_no_part_of_a_manifest_is_a_manifest():
    content = manifest().to_json().rstrip()
    for length in range(0, len(content), 7):
        assert "JSON is broken" in refusal(content[:length])
    assert "JSON is broken" in refusal(content.replace("ä".encode(), b"\xe4"))


@pytest.mark.parametrize("key", [key for key in fields() if key != "format_version"])
def test_a_missing_field_is_damage(key):
    content = fields()
    del content[key]
    line = refusal(content)
    assert "damaged" in line
    assert key in line


@pytest.mark.parametrize("key", list(fields()["stores"][0]))
def test_a_missing_field_of_a_store_is_damage(key):
    content = fields()
    del content["stores"][1][key]
    line = refusal(content)
    assert "damaged" in line
    assert key in line


def test_an_unknown_field_is_damage():
    assert "colour" in refusal(fields() | {"colour": "red"})
    content = fields()
    content["stores"][0]["colour"] = "red"
    assert "colour" in refusal(content)


WRONG = {
    "cells": [-1, 3.0, True, "3", None],
    "recovered": [1, "true", None],
    "recovered_share": ["0.9", True],
    "modality": ["protein", 1, []],
    "digest": [None, 5],
    "resolution": [[], {"names": "2"}, {"by_rule": {"id": "2"}}, {"by_rule": {"id": {"deep": 1}}}],
    "left_out": [{"Antibody Capture": -7}, None],
    "obs_converted": ["text", [1], {}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_of_another_type_is_damage(key, value):
    content = fields()
    content["stores"][0][key] = value
    line = refusal(content)
    assert "damaged" in line
    assert key in line


@pytest.mark.parametrize("stores", [{}, None, "stores", ["store"], [[]]])
def test_stores_that_are_none_are_damage(stores):
    assert "damaged" in refusal(fields() | {"stores": stores})


def test_two_stores_of_one_name_are_damage():
    content = fields()
    assert "two stores" in refusal(content | {"stores": content["stores"][:1] * 2})


ESCAPES = ["..", "../x", "a/../../x", "/etc", "a/b", "a\\b", ".hidden", "", "a b", "a\n", "gs://bucket"]


@pytest.mark.parametrize("name", ESCAPES)
def test_no_store_is_outside_the_corpus(name):
    content = fields()
    content["stores"][0] |= {"name": name, "path": f"stores/{name}.rna.zarr"}
    assert "cannot be at" in refusal(content)


@pytest.mark.parametrize("path", ["../pbmc.rna.zarr", "stores/lung.rna.zarr", "/stores/pbmc.rna.zarr", "stores"])
def test_a_path_is_where_its_name_says(path):
    content = fields()
    content["stores"][0]["path"] = path
    assert "cannot be at" in refusal(content)


@pytest.mark.parametrize("stem", [*ESCAPES, "PBMC 3k (filtered)", "Zellen männlich", "..a..", "ok-1.2_x"])
def test_a_store_name_is_one_that_is_read_back(stem):
    name = store_name(stem)
    assert name == store_name(name)
    if name:
        written = Manifest("0.1", "human", "GENCODE 48").with_stores([entry(name)], 2)
        assert Manifest.from_json(written.to_json(), "") == written


# --- several modalities, and the format before them ---


def of_format_1() -> dict:
    """A manifest as mofm wrote it when a corpus was RNA from h5ad files alone."""
    content = fields()
    content["format_version"], content["stores"] = 1, content["stores"][:1]
    new = ("input", "kind", "given", "total_hits", "hits_from", "build", "build_evidence", "notes")
    for key in new:
        del content["stores"][0][key]
    return content


def test_format_1_is_read_and_kept():
    content = (json.dumps(of_format_1(), indent=1, ensure_ascii=False) + "\n").encode()
    read = Manifest.from_json(content, "")
    assert read.stores == (entry(kind="h5ad", given={}, build=None, build_evidence="", notes=[]),)
    assert read.to_json() == content
    grown = read.with_stores([entry("lung", modality="atac")], 9)
    assert json.loads(grown.to_json())["format_version"] == FORMAT_VERSION == 3
    assert Manifest.from_json(grown.to_json(), "") == grown


def test_format_1_knows_no_later_fields():
    content = of_format_1()
    content["stores"][0]["build"] = "GRCh38"
    assert "build is unknown in format 1" in refusal(content)


def test_stores_of_one_dataset_have_one_modality_each_and_the_same_cells():
    content = fields()
    assert [store["path"] for store in content["stores"][1:]] == ["stores/lung.rna.zarr", "stores/lung.atac.zarr"]
    content["stores"][2]["cells"] += 1
    assert "'lung' have 3 and 4 cells" in refusal(content)
