"""A trained model among the tools of scverse: AnnData and MuData in and out, `mofm.load(PATH)`.

    model = mofm.load("runs/mine")                    a run, or a bundle
    model.embed(adata)                                obsm["X_mofm"], uns["mofm"]
    predicted = model.translate(adata, to="atac")          an AnnData
    model.regulators(adata, groupby="cell_type")      obsm["mofm_tf_activity"], uns["mofm_regulators"]
    model.perturb(adata, knock_out="GATA1")           obs["mofm_shift"], obsm["X_mofm_perturbed"], uns["mofm_perturbation"]
    treated = model.respond(adata, "stim")               an AnnData: layers["response"], by the model's head of responses
    model.annotate(adata, reference, "cell_type")     obs["mofm_label"], obs["mofm_label_confidence"]
    model.annotate(adata)                             the same by the model's annotation head

Everything is done by the functions that the command line calls, so results are the same
to the bit; here they are put where Python expects them. As in scanpy, what is given is written to, and `copy=True` gives a copy
back instead. `mofm.pl` draws what they write.

Common arguments:
  layer: layers[layer] holds the raw counts; None looks for them (layers["counts"] and its usual other names, raw, X).
  modality: of MuData, or of an AnnData of several feature types, which one; None: all that there are.
  copy: write to a copy and return that. Of a backed AnnData the copy is in memory.
  progress: a bar on stderr, where that is a terminal.
  options: batch_size ("auto"), max_tokens, species, orthologs, build: fields of `inference.model.Options`; counts_from,
    recover_counts: of `omics.readers.Reading`.

A backed AnnData is read from its file in blocks of cells; what is written to it is so in memory. Tables are in uns as
DataFrames, which AnnData writes to a file.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import anndata

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.inference.annotate import label_by_head, label_cells
from mofm.inference.model import PretrainedModel, Step, load
from mofm.inference.output import added_embedding
from mofm.inference.perturb import FOLD, Change, perturb
from mofm.inference.regulator_output import KEY, added_changes, added_regulators
from mofm.inference.regulators import regulators
from mofm.inference.respond import respond
from mofm.inference.scverse import as_names, asked_for, checked, said_for_python, write_to
from mofm.inference.targets import Depth, find_targets, read_names
from mofm.inference.translate import translate_cells, translate_file
from mofm.inference.vote import VOTERS
from mofm.omics.held import Held


class Model:
    """A trained model. Its methods are listed above; each raises `InputError`, in a line, where it cannot use what it is given.

    Attributes:
      pretrained: the model that the command line asks; it reads files of every layout.
    """

    def __init__(self, pretrained: PretrainedModel):
        self.pretrained = pretrained

    @classmethod
    def load(cls, path: str | Path, *, step: Step = None) -> "Model":
        """See `mofm.load`."""
        with said_for_python():
            return cls(load(path, step=step))

    def __repr__(self) -> str:
        one = self.pretrained
        networks = f", networks {', '.join(one.network.relations)}" if one.network else ""
        return (
            f"mofm model {one.name!r}, step {one.step}: {', '.join(one.spec.modalities)} of {one.named_by.species}, "
            f"{len(one.genes):,} genes, embeds in {one.config.encoder.cell_width}"
            f"{', translates' if one.spec.translates else ''}{', fuses' if one.spec.fuses else ''}{networks}"
        )

    def embed(
        self,
        data: Held,
        *,
        key_added: str = "X_mofm",
        layer: str | None = None,
        modality: Modality | None = None,
        copy: bool = False,
        progress: bool = True,
        **options,
    ) -> Held | None:
        """Write each cell's embedding to obsm[key_added], and to uns["mofm"] which model it was and what it knows.

        Of several modalities obsm[key_added + "_rna"] and so on are each, and obsm[key_added] is the joint embedding: of a
        model that fuses, the columns that modalities share once a cell's views have seen each other; else the mean of its
        embeddings. NaN where a cell was not measured. Of MuData these are the obsm and uns of the whole.

        Raises:
          InputError: no counts, no gene of the model, or a mistyped option.
        """
        with said_for_python():
            how = asked_for(layer, modality, progress, options)
            found = self.pretrained.embed_cells(checked(data, copy), **how)
            return write_to(data, partial(added_embedding, found, key_added), copy)

    def translate(
        self,
        data: Held,
        to: Modality,
        *,
        features: Iterable[str] | Path | None = None,
        features_build: str | None = None,
        depth: Depth = "median",
        output: str | Path | None = None,
        layer: str | None = None,
        modality: Modality | None = None,
        progress: bool = True,
        **options,
    ) -> anndata.AnnData:
        """Predict another modality of the cells: an AnnData of the expected measurement of a cell of median depth in X, and its
        standard deviation in layers["sd"].

        Args:
          to: "rna", "atac", "adt" or "methylation".
          features: names of genes, antibodies or regions ("chr1:100-600"), or a BED file; None: those of training.
          features_build: genome build of regions; None finds it.
          depth: "median", of training, for all cells, or "predicted", for each what its source predicts; in obs["mofm_depth"].
          output: an .h5ad to write to in blocks, which is given back backed; None keeps all in memory.

        Raises:
          InputError: as `embed`; the model does not translate, or knows none of the features.
        """
        with said_for_python():
            how = asked_for(layer, modality, progress, options)
            path = isinstance(features, str | Path)
            names = (
                features if features is None else read_names(Path(features), to) if path else list(map(str, features))
            )
            where = str(features) if path else "features"
            targets = find_targets(self.pretrained, to, names, features_build, where, depth)
            if output is None:
                return translate_cells(self.pretrained, checked(data), targets, **how)
            translate_file(self.pretrained, checked(data), Path(output), targets, **how)
            return anndata.read_h5ad(output, backed="r")

    def regulators(
        self,
        data: Held,
        groupby: str,
        *,
        network: str | None = None,
        top: int = 10_000,
        min_cells: int = 10,
        key_added: str = KEY,
        layer: str | None = None,
        copy: bool = False,
        progress: bool = True,
        **options,
    ) -> Held | None:
        """Find which TFs are active in which group of cells, and on which genes they act there.

        Written are obsm[key_added], cells x TFs, z-scored, and uns["mofm_regulators"]: "tfs" names the columns, "edges" is
        the table of the first `top` edges of each group, "top" that of the TFs of each group, the most active first; "notes"
        says what else a person is to know. Scores are beside the average cell of `data`: give all that are to be compared.

        Args:
          groupby: a column of obs.
          network: name of the one to ask; None: all that the model knows.
          min_cells: groups of fewer are left out, and said in the notes.

        Raises:
          InputError: as `embed`; the model knows no network, or obs has no such column.
        """
        with said_for_python():
            how = asked_for(layer, "rna", progress, options)
            of = {"network": network, "top": top, "min_cells": min_cells}
            found = regulators(self.pretrained, checked(data, copy), groupby, **of, **how)
            return write_to(data, partial(added_regulators, found, key_added), copy)

    def perturb(
        self,
        data: Held,
        *,
        knock_out: str | Iterable[str] = (),
        overexpress: str | Iterable[str] | Mapping[str, float] = (),
        groupby: str | None = None,
        network: str | None = None,
        min_cells: int = 10,
        layer: str | None = None,
        copy: bool = False,
        progress: bool = True,
        **options,
    ) -> Held | None:
        """Knock out or overexpress TFs in every cell, in silico; an estimate, no experiment (see `inference/perturb.py`).

        Written are obs["mofm_shift"], how far each cell is moved, obsm["X_mofm"] and obsm["X_mofm_perturbed"], and
        uns["mofm_perturbation"] with the tables "genes" (a row a gene and group: go by its column "network") and "groups", and
        with "changes", what was done.

        Args:
          knock_out: TFs whose counts are set to 0 and whose edges leave the network.
          overexpress: TFs whose counts are multiplied by ten, or by what a mapping says.

        Raises:
          InputError: as `regulators`; no TF is named, or one that the networks do not have.
        """
        with said_for_python():
            how = asked_for(layer, "rna", progress, options)
            folds = overexpress if isinstance(overexpress, Mapping) else dict.fromkeys(as_names(overexpress), FOLD)
            changes = [Change(name) for name in as_names(knock_out)]
            changes += [Change(name, float(fold)) for name, fold in folds.items()]
            of = {"network": network, "min_cells": min_cells}
            found = perturb(self.pretrained, checked(data, copy), changes, groupby, **of, **how)
            return write_to(data, partial(added_changes, found, changes), copy)

    def respond(
        self,
        data: Held,
        treatment: str,
        *,
        groupby: str | None = None,
        min_cells: int = 10,
        output: str | Path | None = None,
        layer: str | None = None,
        progress: bool = True,
        **options,
    ) -> anndata.AnnData:
        """Predict what a treatment would do to untreated cells, from what it did to groups of cells that they are like.

        By the model's head of responses (`mofm finetune --task perturbation:COLUMN`); an estimate, no experiment.

        Returns:
          An AnnData: X log1p of counts per 10,000 of the cells as they are, layers["response"] the same after the treatment,
          obsm["X_mofm"] and obsm["X_mofm_response"] the embedding before and after, and uns["mofm_response"] with how well
          held-out groups of training were predicted ("held_out"), and the group that each group here is likened to
          most ("groups").

        Args:
          groupby: a column of obs, for that table.
          min_cells: groups of fewer are left out of it.
          output: an .h5ad to write to in blocks, which is given back backed; None keeps all in memory.

        Raises:
          InputError: as `embed`; the model has no such head, or one that knows other treatments.
        """
        with said_for_python():
            how = asked_for(layer, "rna", progress, options) | {"min_cells": min_cells}
            to = None if output is None else Path(output)
            found = respond(self.pretrained, checked(data), treatment, groupby, output=to, **how)
            return found.adata if output is None else anndata.read_h5ad(output, backed="r")

    def annotate(
        self,
        data: anndata.AnnData,
        reference: anndata.AnnData | None = None,
        label_key: str | None = None,
        *,
        voters: int = VOTERS,
        ontology: str | Path | None = None,
        confidence: float | None = None,
        key_added: str = "mofm_label",
        layer: str | None = None,
        modality: Modality = "rna",
        copy: bool = False,
        progress: bool = True,
        **options,
    ) -> anndata.AnnData | None:
        """Label cells by their nearest neighbours, in the embedding, among the labelled cells of a reference; without one by
        the model's annotation head.

        Written are obs[key_added], a label, a broader term, or "unknown"; obs[key_added + "_confidence"], the chance that it
        is right; obs[key_added + "_likeliest"], the label all the same; with an ontology obs[key_added + "_term"], the id of
        the term; and uns["mofm_annotation"]. By the head obs[key_added + "_distance"] too, from its nearest type: beyond 1 a
        cell is "unknown" however sure the label. By a reference obs[key_added + "_voices"], the share of the neighbours that
        have the likeliest label, and obs[key_added + "_nearest"], the name of the nearest of them. Both are embedded anew,
        and the same options hold for both. How chances are found, and of which cells they hold: `inference/vote.py`,
        `inference/head.py`.

        Args:
          label_key: column of the reference's obs; cells without a label there have no voice.
          voters: neighbours of a cell that vote.
          ontology: an OBO file, as the Cell Ontology's; where no label is sure enough, its most specific term that is.
          confidence: a name is to be as sure as this; None: as most rightly named cells are, of those that the head or
            the reference is judged by.

        Raises:
          InputError: as `embed`; or the reference has no such column, or no label in it; or the model has no head; or the
            ontology cannot be read, or has no label as a term.
        """
        with said_for_python():
            how = asked_for(layer, modality, progress, options)
            naming = {"key_added": key_added, "ontology": ontology, "confidence": confidence}
            if reference is None:
                if label_key is not None:
                    raise InputError(f"label_key {label_key!r} is a column of a reference: give the reference too")
                found = label_by_head(self.pretrained, checked(data, copy), **naming, **how)
                return write_to(data, found.added, copy)
            if label_key is None:
                raise InputError("a reference needs label_key, the column of its obs that names its cells")
            found = label_cells(
                self.pretrained,
                checked(data, copy),
                checked(reference),
                label_key,
                voters=voters,
                **naming,
                **how,
            )
            return write_to(data, found.added, copy)
