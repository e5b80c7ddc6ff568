"""A job, in a process of its own: the functions behind `mofm embed`, `annotate`, `translate` and `regulators`, and a page of
what came out.

The files that it leaves are those of the command line, with the same keys; the map, the tables and the CSV files are for the
page. How far it is goes to stdout, an error to stderr (see `limits.py`).
"""

import errno
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from mofm.axes import FEATURES
from mofm.errors import InputError
from mofm.inference.model import PretrainedModel, load
from mofm.inference.output import rows_of_cells, write_embedding
from mofm.omics.hdf5 import open_hdf5, read_table
from mofm.omics.readers import Reading
from mofm.portal.limits import die_with_parent, say
from mofm.portal.results import MATRIX_VALUES, Result
from mofm.portal.verbs import MODALITY_NAMES
from mofm.portal.wording import in_portal_words
from mofm.progress import progress_sent_to

VARIABLE = 12
"""So many features that vary most can colour the map of a translation."""
MAPPED = 2000
"""So many of them it is made of."""


def perform(model: PretrainedModel, source: Path, folder: Path, what: dict) -> None:
    """Do a job: the folder gets its files, result.json last.

    Args:
      what: verb; options, as `verbs.check_job` gives them; name: the file's, as its user knows it; ontology: the portal's.

    Raises:
      InputError: the file or an option turns out not to be usable, or the disk is full.
    """
    options = what["options"]
    reading = Reading(options.get("modality") or None, recover_counts=bool(options.get("recover_counts")))
    common = {"build": options.get("build"), "quiet": True}
    options = options | {"ontology": what.get("ontology")}
    result = DO[what["verb"]](model, source, folder, options, reading, common)
    result.write()


def embed(model, source, folder, options, reading, common) -> Result:
    """`mofm embed`: as `perform`."""
    result = Result(folder, "Embedded cells")
    found = model.embed_cells(source, reading, **common)
    is_mudata = _is_mudata(source)
    name = "cells.h5mu" if is_mudata else "cells.h5ad"
    with open_hdf5(source) as file:
        copied = "Your file" if "obs" in file else "The cells' names"  # of 10x HDF5 nothing else is copied
    write_embedding(source, result.add_file(name, f'{copied} with obsm["X_mofm"]'), found)
    with open_hdf5(folder / name) as file:
        obs = read_table(file, folder / name, "obs")
    if is_mudata:
        obs = _with_obs_of_modalities(folder / name, obs)
    cells_NE = rows_of_cells(found.joint.embedding_NE, found.joint.cells, obs.index)
    coords_N2 = result.add_map("the cells by their embedding", cells_NE, obs)
    result.say(f"{len(obs):,} cells, an embedding of {cells_NE.shape[1]} numbers each.")
    rows = []
    for modality, embedding in found.views.items():
        report = embedding.report
        rows.append(
            {
                "modality": MODALITY_NAMES[modality], "cells": len(embedding.cells), "counts from": report["counts_from"],
                "features": report["features_matched"] + report["features_unmatched"],
                "known to the model": report["features_matched"], "counts in them, %": 100 * report["share_of_counts_known"],
            }
        )  # fmt: skip
        _say_notes(result, modality, report["notes"], report["share_of_counts_known"])
    result.add_table("What the model knows of your file", pd.DataFrame(rows))
    columns = {f"mofm_{number + 1}": cells_NE[:, number] for number in range(cells_NE.shape[1])}
    table = pd.DataFrame({"cell": obs.index, "umap_1": coords_N2[:, 0], "umap_2": coords_N2[:, 1], **columns})
    result.add_csv("embedding.csv", "The embedding and the map, a row a cell", table)
    return result


def annotate(model, source, folder, options, reading, common) -> Result:
    """`mofm annotate` by the model's head: as `perform`."""
    from mofm.inference.annotate import label_by_head
    from mofm.inference.naming import UNKNOWN
    from mofm.inference.output import write_copy

    asked = {key: options.get(key) for key in ("ontology", "confidence")}
    found = label_by_head(model, source, reading, **asked, **common)
    report = found.report
    result = Result(folder, f"Cells by {report['label_key']}")
    embedding, name = found.embedding, "cells.h5mu" if _is_mudata(source) else "cells.h5ad"
    what = 'Your file with obs["mofm_label"], its confidence, and the likeliest label'
    key = "mofm_label"
    write_copy(source, result.add_file(name, what), {embedding.modality: embedding}, found.added)
    table = pd.DataFrame({key: np.asarray(column) for key, column in found.columns.items()}, index=embedding.cells)
    result.add_map("the cells by their embedding", embedding.embedding_NE, table)
    named = int((table[key] != UNKNOWN).sum())
    result.say(
        f"{named:,} of {len(table):,} cells are named; of the others the confidence is below {report['threshold']:.2f}, or "
        "they are far from all types."
    )
    if "broader_cells" in report:
        result.say(
            f"{report['broader_cells']:,} of them are named by a broader term, the most specific that is as sure."
        )
        for note in report["notes"]:
            result.say(f"{note}.")
    result.say(
        f"The model knows {len(report['labels'])} labels. Confidence is calibrated on cells as it was trained on: of another "
        "tissue or technique it promises nothing."
    )
    _say_notes(result, embedding.modality, embedding.report["notes"], embedding.report["share_of_counts_known"])
    columns = [name for name in (key, f"{key}_term") if name in table]
    by_label = table.groupby(columns, observed=True)[f"{key}_confidence"]
    counted = by_label.agg(cells="size", confidence="mean").sort_values("cells", ascending=False).reset_index()
    counted = counted.rename(columns={key: "label", f"{key}_term": "term"})
    result.add_table("Cells of each label", counted, "Mean confidence.")
    result.add_csv("labels.csv", "The label of each cell", table.rename_axis("cell").reset_index())
    return result


def translate(model, source, folder, options, reading, common) -> Result:
    """`mofm translate`: as `perform`."""
    from mofm.inference.targets import find_targets
    from mofm.inference.translate import translate_file

    to = options["to"]
    things = FEATURES[to]
    result = Result(folder, f"Translated to {MODALITY_NAMES[to]}")
    targets = find_targets(model, to, options["features"] or None, common["build"], "the features that you gave")
    path = result.add_file("translated.h5ad", f'Your cells x {things}: X the means, layers["sd"] the deviations')
    written = translate_file(model, source, path, targets, reading, **common)
    result.say(
        f"{written.cells:,} cells x {written.features:,} {things}, predicted from {MODALITY_NAMES[written.source]}."
    )
    if new := int((~targets.var["trained"]).sum()):
        result.say(
            f"{new:,} of the {things} were in no training data: known by their genes, and their level only roughly."
        )
    if targets.unknown:
        some = ", ".join(targets.unknown[:3])
        result.say(f"Left out: {len(targets.unknown):,} {things} that speak of no gene of the model ({some}).")
    _say_notes(result, written.source, (), written.share_of_counts_known)
    mean_F, deviation_F = _spread(path)
    with h5py.File(path) as file:
        obs, var = (anndata.io.read_elem(file[key]) for key in ("obs", "var"))
        features = pd.DataFrame(
            {
                "feature": var.index,
                "id": var["feature_id"],
                "in training data": np.where(var["trained"], "yes", "no"),
                "mean": mean_F,
            }
        ).assign(**{"sd across cells": deviation_F})
        order = np.argsort(-deviation_F, kind="stable")
        mapped = np.sort(order[:MAPPED])
        mapped_NF = file["X"][:, mapped] if len(mapped) < len(var) else file["X"][:]
        columns = {f"{var.index[one]}": file["X"][:, one] for one in order[:VARIABLE]}
        if len(obs) * len(var) <= MATRIX_VALUES:
            whole = pd.DataFrame(file["X"][:], columns=var.index)
            whole.insert(0, "cell", obs.index)
            result.add_csv("translated.csv", f"The means, cells x {things}", whole)
    if len(var) > 2:
        coordinates_NE = PCA(min(30, *mapped_NF.shape), random_state=0).fit_transform(np.log1p(mapped_NF))
        coloured = pd.concat([obs, pd.DataFrame(columns, index=obs.index)], axis=1)
        coloured = coloured.loc[:, ~coloured.columns.duplicated()]
        result.add_map(f"the cells by their translated {things}", coordinates_NE, coloured)
    else:
        result.say(f"Fewer than 3 {things}: no map is drawn.")
    ordered = features.iloc[order].reset_index(drop=True)
    result.add_table(f"The {things} that vary most", ordered.head(50), "Means are for a cell of median depth.")
    result.add_csv("features.csv", f"Mean and spread of each of the {things}", ordered)
    return result


def regulators(model, source, folder, options, reading, common) -> Result:
    """`mofm regulators`: as `perform`."""
    from mofm.inference.regulator_output import write_cells
    from mofm.inference.regulators import regulators as find
    from mofm.pl.regulation import write_figure

    result = Result(folder, f"Regulators of {options['groupby']}")
    asked = {key: options[key] for key in ("network", "min_cells")}
    found = find(model, source, options["groupby"], reading, **asked, **common)
    name = "cells.h5mu" if _is_mudata(source) else "cells.h5ad"
    write_cells(source, result.add_file(name, 'Your file with obsm["mofm_tf_activity"], cells x TFs'), found)
    write_figure(
        found.top, result.add_image("regulators.png", "Dots: mean activity of the most active TFs of each group")
    )
    groups = pd.Series(np.array([*found.groups.names, None], object)[found.groups.code_N], found.embedding.cells)
    strongest = found.top[found.top["rank"] <= 3]["tf"].drop_duplicates()[:VARIABLE]
    activities = {f"{tf} activity": found.activity_NT[:, found.tfs.index(tf)] for tf in strongest}
    obs = pd.DataFrame({options["groupby"]: groups.to_numpy(), **activities}, index=found.embedding.cells)
    result.add_map("the cells by their embedding", found.embedding.embedding_NE, obs)
    new = int((found.edges["known"] == "").sum())
    result.say(
        f"{len(found.tfs):,} TFs in {len(found.groups.names):,} groups of cells, beside the average cell of the file."
    )
    result.say(f"{len(found.edges):,} edges, {new:,} of them new predictions: hypotheses to test.")
    for note in found.notes:
        result.say(note[0].upper() + note[1:] + ".")
    _say_notes(result, "rna", found.embedding.report["notes"], found.embedding.report["share_of_counts_known"])
    best = found.top[found.top["rank"] <= 5]
    result.add_table(
        "The most active TFs of each group", best[["group", "tf", "activity", "targets"]], "Mean z-scores."
    )
    columns = ["group", "tf", "target", "sign", "score", "confidence", "known"]
    result.add_table("The strongest edges of each group", found.edges[found.edges["rank"] <= 10][columns])
    result.add_csv("tfs.csv", "Activity of every TF in each group", found.top)
    result.add_csv("edges.csv", "The strongest edges of each group", found.edges)
    return result


def _say_notes(result: Result, modality: str, notes, share: float) -> None:
    for note in notes:
        result.say(f"{MODALITY_NAMES[modality]}: {note}.")
    if share < 0.5:
        result.warn(
            f"{MODALITY_NAMES[modality]}: only {share:.0%} of the counts are in {FEATURES[modality]} that the model knows; it "
            "says little of these cells."
        )


def _is_mudata(source: Path) -> bool:
    with open_hdf5(source) as file:
        return "mod" in file


def _with_obs_of_modalities(path: Path, obs: pd.DataFrame) -> pd.DataFrame:
    """Of MuData, the columns of its parts too, where the whole has none of the name."""
    with ExitStack() as resources:
        parts = resources.enter_context(open_hdf5(path))["mod"]
        for part in parts:
            table = read_table(parts[part], path, "obs")
            new = [key for key in table if key not in obs and table.index.is_unique]
            obs = obs.join(table[new].reindex(obs.index))
    return obs


def _spread(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation across cells of each feature of a translation, a block of cells at a time."""
    with h5py.File(path) as file:
        X = file["X"]
        total_F, squares_F = np.zeros(X.shape[1]), np.zeros(X.shape[1])
        for start in range(0, len(X), 512):
            block = X[start : start + 512].astype(np.float64)
            total_F += block.sum(axis=0)
            squares_F += (block**2).sum(axis=0)
        mean_F = total_F / len(X)
    return mean_F, np.sqrt(np.maximum(squares_F / len(X) - mean_F**2, 0))


DO = {"embed": embed, "annotate": annotate, "translate": translate, "regulators": regulators}


def main(model: str, source: str, folder: str, what: str) -> int:
    """Do the job that the file `what` describes, for a worker."""
    die_with_parent()
    asked = json.loads(Path(what).read_text(encoding="utf-8"))
    path = Path(source)
    os.environ["TMPDIR"] = tempfile.tempdir = str(Path(folder).parent)
    try:
        say(stage="loading the model", done=0, total=0)
        with progress_sent_to(lambda stage, done, total: say(stage=stage, done=done, total=total)):
            perform(load(model), path, Path(folder), asked)
    except InputError as error:
        print(in_portal_words(" ".join(str(error).split()), path, asked["name"]), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print("the server's disk is full; nothing was lost but this job: ask who keeps the server", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
