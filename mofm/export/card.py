"""The model card: README.md in the hub's form, a head of YAML and then prose. It says what the run recorded, and no more."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mofm.axes import FEATURES
from mofm.errors import InputError
from mofm.export.parts import Parts

NO_LICENCE, OWN_LICENCE = "unknown", "other"
"""The hub's words."""
LISTED = 40
"""Data sets that are named."""
FIGURES = {
    "loss": "all objectives together, as weighed in training",
    "token_nll": "of a hidden measurement, nats",
    "null_nll": "the same by the mean predictor",
    "label_nll": "of a label by the head in training, rare ones weighing more, nats; the best step was chosen by it",
    "label_accuracy": "labels that this head names rightly",
    "link_nll": "of a held-out regulatory edge, nats",
    "link_auroc": "held-out edges against other pairs of the same TF; .5 by chance",
}
"""Those that the card shows (config.json has all), and what they mean, by the last part of their names."""


@dataclass(frozen=True)
class Licence:
    """Under which terms a model is given away.

    Attributes:
      identifier: one of the hub's, lower case; "other" where `text` says; "unknown" where nothing was said.
      text: of a licence of one's own.
    """

    identifier: str
    text: str | None = None

    @classmethod
    def of(cls, given: str | None) -> "Licence":
        """What was given: an identifier, the path of a text, or nothing. Raises `InputError` for anything else."""
        if given is None:
            return cls(NO_LICENCE)
        try:
            if Path(given).is_file():
                return cls(OWN_LICENCE, Path(given).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{given}: cannot be read as the text of a licence ({error})") from error
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", given):
            raise InputError(f"licence {given!r}: neither a file nor an identifier such as apache-2.0 or cc-by-4.0")
        return cls(given.lower())


def read_figures(workdir: Path, step: int) -> dict[str, float]:
    """What a run's metrics say of held-out cells at the last evaluation up to `step`, and that evaluation's step; none
    where there was none."""
    figures, path = {}, workdir / "metrics.jsonl"
    if not path.exists():
        return {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            said = {name: float(value) for name, value in row.items() if name.startswith("heldout/")}
            if said and row["step"] <= step:
                figures = {"step": row["step"], **said}
        except (ValueError, KeyError, AttributeError, TypeError):
            break  # a line cut short is the last
    return figures


def model_card(parts: Parts, record: dict[str, Any], licence: Licence, compiled: bool) -> str:
    """README.md of the bundle whose config.json is `record`."""
    parts_of_card = (
        _head(parts, licence),
        f"# {record['name']}",
        _what_it_is(parts, record),
        _use(parts, compiled),
        _training(parts, record),
        _figures(record),
        *_heads(parts),
        *_responses(parts),
        _limits(parts),
        _terms(parts, record, licence),
    )
    return "\n\n".join(parts_of_card) + "\n"


def _head(parts: Parts, licence: Licence) -> str:
    terms = f"license: {licence.identifier}"
    if licence.identifier == OWN_LICENCE:
        terms += "\nlicense_name: see-licence-file\nlicense_link: LICENSE"
    tags = ["biology", "single-cell", "multi-omics", "jax", *parts.spec.modalities]
    listed = "\n".join(f"- {tag}" for tag in tags)
    return f"---\n{terms}\nlibrary_name: mofm\npipeline_tag: feature-extraction\ntags:\n{listed}\n---"


def _what_it_is(parts: Parts, record: dict[str, Any]) -> str:
    encoder, spec = parts.config.encoder, parts.spec
    weights = sum(leaf.size for leaf in jax.tree.leaves(parts.params))
    omics = ", ".join(f"{name} ({FEATURES[name]})" for name in spec.modalities)
    lines = [
        f"A transformer pretrained by mofm {record['mofm_version']} on single cells of {parts.named_by.species}: "
        f"{weights:,} parameters, width {encoder.width}, depth {encoder.modality_blocks} + {encoder.blocks} (each omics "
        f"type's own, then shared), a cell embedding of {encoder.cell_width} numbers.",
        f"- reads: {omics}",
        f"- knows: {len(parts.genes):,} genes, named by {parts.named_by.version}",
        f"- translates between them: {'yes' if spec.translates else 'no'}",
        f"- fuses several of one cell: {'yes' if spec.fuses else 'no'}",
        f"- regulatory networks: {', '.join(parts.network.relations) if parts.network else 'none'}",
        f"- step {parts.step:,} of {parts.config.run.steps:,}; config {record['config_hash']}",
        *_origin(record.get("finetuned_from")),
    ]
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _origin(said: dict[str, Any] | None) -> list[str]:
    """Which model it was finetuned from, and that from which, and so on."""
    lines = []
    while said is not None:
        verb = "which was" if lines else "was"
        lines.append(f"- {verb} finetuned from {said['name']}, step {said['step']:,}, parameters {said['digest'][:12]}")
        said = said.get("from")
    return lines


def _use(parts: Parts, compiled: bool) -> str:
    verbs = ['model.embed(adata)  # obsm["X_mofm"]; raw counts, genes as symbols or Ensembl ids']
    if parts.spec.translates:
        verbs.append(f'predicted = model.translate(adata, to="{parts.spec.modalities[-1]}")')
    if parts.network:
        verbs.append('model.regulators(adata, groupby="cell_type")')
    code = "\n".join(["import anndata", "import mofm", "", 'adata = anndata.read_h5ad("cells.h5ad")',
                      'model = mofm.load("PATH/OF/THIS/FOLDER")', *verbs])  # fmt: skip
    shell = "mofm embed PATH/OF/THIS/FOLDER cells.h5ad embedded.h5ad"
    more = (
        "\n\n`compiled/` holds the encoder as StableHLO, for JAX without mofm: see `compiled/index.json`."
        if compiled
        else ""
    )
    return f"## Use\n\n```python\n{code}\n```\n```bash\n{shell}\n```{more}"


def _training(parts: Parts, record: dict[str, Any]) -> str:
    sets = record["data_sets"]
    if not sets:
        return f"## Training data\n\nNot recorded, but for its fingerprint: {record.get('corpus_digest', 'none')}."
    cells = sum(one["cells"] for one in sets)
    rows = [f"| {one['name']} | {one['cells']:,} | {', '.join(one['modalities'])} |" for one in sets[:LISTED]]
    rest = sets[LISTED:]
    rows += [f"| and {len(rest):,} more | {sum(one['cells'] for one in rest):,} | |"] if rest else []
    held = parts.config.data.holdout_fraction
    return (
        f"## Training data\n\n{cells:,} cells, {len(sets):,} data set(s); about {held:.0%} were held out of training. "
        f"Fingerprint of the corpus: {record.get('corpus_digest', 'none')}.\n\n"
        "| data set | cells | measured |\n|---|---:|---|\n" + "\n".join(rows)
    )


def _figures(record: dict[str, Any]) -> str:
    figures = dict(record["figures"] or {})
    if not figures:
        return "## Figures\n\nNone: the run was not evaluated on held-out cells."
    step = figures.pop("step")
    shown = {name: FIGURES[last] for name in sorted(figures) if (last := name.split("/")[-1]) in FIGURES}
    rows = [f"| `{name}` | {figures[name]:.4f} | {meaning} |" for name, meaning in shown.items()]
    return (
        f"## Figures\n\nOn held-out cells of the training data sets, at step {int(step):,}. They say how well hidden "
        "measurements are predicted in cells like those of training, not how well cell types or regulators are found in yours."
        "\n\n| figure | value | |\n|---|---:|---|\n" + "\n".join(rows)
    )


def _heads(parts: Parts) -> list[str]:
    """What its annotation heads know, and how well on held-out cells."""
    if (heads := parts.heads) is None:
        return []
    rows = [
        f"| {modality} | {len(head.labels)} | {head.figures['heldout_cells']:,} | {head.figures['accuracy']:.3f} | "
        f"{head.figures['mean_recall']:.3f} | {head.figures['calibration_error']:.3f} | {head.figures['kept']:.3f} |"
        for modality, head in heads.of.items()
    ]
    return [
        f"## Annotation\n\n`mofm annotate MODEL IN OUT` names cells by what `{heads.label_key}` says of the training cells, "
        f"{_moved(parts)}. On "
        "held-out cells of the training data sets; where nothing of the encoder was trained on them, on all, each named by "
        'what others teach. Those below the threshold, or far from all types, are called "unknown", the others are kept:\n\n'
        "| cells | labels | judged by | accuracy | mean recall | calibration error | kept |\n"
        "|---|---:|---:|---:|---:|---:|---:|\n" + "\n".join(rows)
    ]


def _responses(parts: Parts) -> list[str]:
    """What it knows of treatments, and how well held-out groups were predicted."""
    if (head := parts.responses) is None:
        return []
    keys = ("pearson", "pearson_of_mean_change", "skill", "skill_of_mean_change")
    rows = []
    for treatment, response in head.of.items():
        means = [sum(row[key] for row in response.held_out) / len(response.held_out) for key in keys]
        rows.append(f"| {treatment} | {len(response.groups)} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return [
        "## Responses\n\n`mofm perturb MODEL IN OUT --response TREATMENT` predicts what a treatment "
        f"(`{head.condition_key}`) would do to untreated cells (`{head.control}`), from what it did to groups "
        f"(`{head.groups_key}`) that they are like. Each group predicted from the others, beside their mean change; skill "
        "is 1 - squared error / squared change, of the 50 genes that change most:\n\n"
        "| treatment | groups | Pearson of the change | mean change | skill | mean change |\n"
        "|---|---:|---:|---:|---:|---:|\n" + "\n".join(rows)
    ]


def _moved(parts: Parts) -> str:
    """What the labels trained."""
    if not parts.config.objectives.supervised_weight:
        return "which did not move the encoder"
    through = f"through adapters of rank {rank}, since merged" if (rank := parts.config.adapters.rank) else "whole"
    return f"which moved the encoder, {through}; its best step was chosen by the held-out ones"


def _limits(parts: Parts) -> str:
    lines = [
        f"- Cells of {parts.named_by.species} alone; genes of other species only as orthologs.",
        "- It says little of a file of which it knows few genes: `mofm embed` reports the share of counts that it knows.",
        "- Batches are not mixed by design: nothing takes technical effects out unless its training did.",
        "- For research. Not made for, and not tested for, decisions about patients.",
    ]
    if parts.network:
        lines.append(
            "- Regulatory edges that no table has are hypotheses; perturbations are estimates, no experiments."
        )
    if parts.spec.translates:
        lines.append(
            "- A translation is an expectation; its deviation does not know of cells unlike those of training."
        )
    return "## Limits\n\n" + "\n".join(lines)


def _terms(parts: Parts, record: dict[str, Any], licence: Licence) -> str:
    said = {
        NO_LICENCE: "No licence was stated when it was exported: ask whoever gave it to you.",
        OWN_LICENCE: "See LICENSE.",
    }.get(licence.identifier, f"{licence.identifier}.")
    return (
        f"## Licence and format\n\n{said} The gene table is of {parts.named_by.source}; its licence is in the metadata "
        f"of `gene_table.parquet`.\n\nBundle format {record['format_version']}: arrays "
        "(safetensors), tables (Parquet) and JSON; no pickle, no code. `checksums.json` is looked at whenever it is loaded."
    )
