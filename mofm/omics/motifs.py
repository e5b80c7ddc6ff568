"""Hits of TF motifs in the genome as statements of a network: each TF regulates the genes near its hits.

A table of hits has columns of a place (chrom, start and end, or one of names such as chr1:100-200) and one of
`MOTIF_COLUMNS`, and may have one of `SCORE_COLUMNS`; or it is BED without header: chrom, start, end, name, score, strand.

For a TF t, a gene g, and the hits h of t within reach of g (`links.py`),

    link(h, g)     = the link's weight * the strength of its region, at most 1: 1 in the promoter, halved every 10 kb
    score(h)       = the hit's score / the largest of the table; 1 where there are no scores
    weight(t, g)   = 1 - product over h of (1 - link(h, g) * score(h)),  then divided by the largest of the table

Choices and their cost:
- Noisy-or and not a sum: the weight is the chance that at least one hit regulates the gene, were each to do so by itself
  with the chance link * score. A sum grows with the number of hits, and so with how common a motif is and how many peaks
  stand near a gene, neither of which is regulation. The cost is that three good hits in a promoter say little more than
  one.
- Links bring their strength along, which weights (they sum to 1 over the genes of a region) leave out: a hit at 90 kb
  from a gene speaks of it by 0.001, though it be the only gene about.
- Hits of one TF at one place, as a palindrome has on both strands, are one hit with the better score.
- Scores are held against those of all motifs, and one below 0 is no hit. Log-odds grow with the length of a motif:
  give scores that compare, or none.
- A motif is named after a TF in many ways (`tfs_of_motif`), and databases give it the name of the species in which it
  was found: a motif "Foxa2" is one of human FOXA2 too, as what TFs bind is kept between mammals (Jolma et al. 2013,
  Cell 152:327). Nowhere else does mofm forgive the letter case of another species.
- Signs are not known by a motif: 0. Open chromatin is not asked for: give hits in peaks of the cells in question.
"""

import re

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics.features import resolve_genes
from mofm.omics.genome import GeneTable, in_build
from mofm.omics.identity import build_of_regions
from mofm.omics.links import link_regions
from mofm.omics.network_columns import TARGET_COLUMNS, Statements, finite_numbers
from mofm.omics.network_files import Cells
from mofm.omics.regions import (
    CHROM_COLUMNS,
    END_COLUMNS,
    NAME_COLUMNS,
    START_COLUMNS,
    RegionResolution,
    require_places,
    resolve_regions,
)

MOTIF_COLUMNS = ("tf", "tf_name", "motif_alt_id", "motif_name", "motif", "tf_motif", "motif_id", "name")
"""Columns that name a motif or its TF; of several the first of this list is taken."""

SCORE_COLUMNS = ("score", "motif_score", "motifscore", "weight")
PEAK_COLUMNS = (*NAME_COLUMNS, "peak_id", "sequence_name")
"""Columns of names that hold a place; FIMO calls the sequences "sequence_name"."""

_BED = ("chrom", "start", "end", "name", "score", "strand")
_JASPAR = re.compile(r"^MA\d{4}\.\d+[._ ]+")
_HOCOMOCO = re.compile(r"(_(HUMAN|MOUSE))?\.H1[0-4][A-Z]*\..*$|_(HUMAN|MOUSE)$")
_IN_BRACKETS = re.compile(r"\(.*$")


def holds_hits(cells: Cells) -> bool:
    """Whether a table is one of motif hits: places and motifs, and no column of targets."""
    if not cells.header:
        return _is_bed(cells)
    placed = all(cells.first_of(names) for names in (CHROM_COLUMNS, START_COLUMNS, END_COLUMNS))
    placed = placed or cells.first_of(PEAK_COLUMNS) is not None
    return placed and cells.first_of(MOTIF_COLUMNS) is not None and cells.first_of(TARGET_COLUMNS) is None


def read_hits(cells: Cells, genes: GeneTable, build: str | None = None) -> Statements:
    """The statements of a table of hits, a row a TF (by the name that its motif gives it) and gene (by its id).

    Args:
      genes: of the species.
      build: genome build of the places; None takes it from their names or finds it by evidence.

    Returns:
      Statements whose index counts from 0, as a hit is no statement; `left_out` says how many hits have no place
      ("unplaced"), are of no gene ("unlinked"), have a score of 0 or less ("zero_weight"), or are again at a place that
      another of their TF is at ("same_place").

    Raises:
      InputError: a score is no number; no hit has a place, or is near a gene; or as `identity.build_of_regions` does.
    """
    if not cells.header:
        cells = cells._replace(frame=cells.frame.rename(columns={str(at): name for at, name in enumerate(_BED)}))
    regions = _regions(cells)
    where = f"motif hits of {cells.path}"
    require_places(regions, where)
    evidence = build_of_regions(regions, genes, build, where)
    hits, notes = _hits(cells, regions, genes)
    left_out = {"unplaced": int(np.count_nonzero(~regions.placed)), "unnamed": 0}
    left_out["zero_weight"] = hits.loc[hits["score"] <= 0, "hit"].nunique()
    hits = hits[hits["score"] > 0]
    before = hits["hit"].nunique()
    hits = hits.sort_values(["tf", "chrom", "start", "end", "score"], kind="stable")
    hits = hits.drop_duplicates(["tf", "chrom", "start", "end"], keep="last")
    left_out["same_place"] = before - hits["hit"].nunique()
    frame, left_out["unlinked"] = _composed(hits, in_build(genes, evidence.build), evidence.build)
    if frame.empty:
        raise InputError(
            f"{where}: none of {len(cells.line):,} hits with a score above 0 is near a {genes.species} gene; give places "
            "as chrom, start and end in bp, and their genome build with --build"
        )
    return Statements(
        layout=f"motif hits, named by {cells.first_of(MOTIF_COLUMNS)}",
        frame=frame,
        lines=len(cells.line),
        left_out=left_out,
        has_confidence=False,
        has_tissue=False,
        notes=(*notes, evidence.sentence),
    )


def tfs_of_motif(name: str, genes: GeneTable) -> list[str]:
    """The TFs of a motif, those of `genes` as their ids.

    Read are JASPAR's "MA0139.1_CTCF" and "RARA::RXRA(var.2)", HOMER's "CTCF(Zf)/CD4+-CTCF-ChIP-Seq/Homer", HOCOMOCO's
    "CTCF_HUMAN.H11MO.0.A" and "CTCF.H12CORE.0.P.B", and ids within names, "ENSG00000102974_LINE3_CTCF_D". A dimer
    ("FOS::JUN", "FOS_JUN") means each of its TFs. What is no gene keeps its name.
    """
    bare = _HOCOMOCO.sub("", _IN_BRACKETS.sub("", _JASPAR.sub("", name.strip()).split("/")[0]))
    bare = bare.strip("._ ") or name
    if "::" not in bare and (known := _known(bare, genes)):
        return [known]
    parts = [part for part in re.split(r"::|_" if "::" not in bare else "::", bare) if part]
    known = [_known(part, genes) for part in parts]
    if "::" in bare or all(known):
        return list(dict.fromkeys(gene or part for gene, part in zip(known, parts, strict=True)))
    return [bare]


def _known(name: str, genes: GeneTable) -> str | None:
    """The id of a gene by its name, as it stands or in the letter case of another species; None where it is none."""
    found = resolve_genes([name, name.upper(), name.capitalize()], genes)
    return next((found.ids[at] for at in range(3) if found.how[at] != "unresolved"), None)


def _is_bed(cells: Cells) -> bool:
    first = cells.frame.iloc[0].tolist()
    return len(first) >= 4 and first[1].isdigit() and first[2].isdigit()


def _regions(cells: Cells) -> RegionResolution:
    """Where each hit lies: by a name that holds it, else by columns of the place."""
    kinds = zip(("chrom", "start", "end"), (CHROM_COLUMNS, START_COLUMNS, END_COLUMNS), strict=True)
    found = {kind: cells.first_of(names) for kind, names in kinds}
    peak = cells.first_of(PEAK_COLUMNS)
    if None not in found.values():
        return resolve_regions(
            np.full(len(cells.line), ""), pd.DataFrame({k: cells.frame[v] for k, v in found.items()})
        )
    if peak == "sequence_name" and found["start"] and found["end"] and ":" not in str(cells.frame[peak].iloc[0]):
        places = {"chrom": cells.frame[peak], "start": cells.frame[found["start"]], "end": cells.frame[found["end"]]}
        return resolve_regions(np.full(len(cells.line), ""), pd.DataFrame(places))
    codes, names = pd.factorize(cells.frame[peak].astype(str))
    once = resolve_regions(names)
    picked = {name: getattr(once, name)[codes] for name in ("builds", "chrom", "start", "end", "how", "rule")}
    return RegionResolution(ids=[once.ids[code] for code in codes], **picked)


def _hits(cells: Cells, regions: RegionResolution, genes: GeneTable) -> tuple[pd.DataFrame, list[str]]:
    """A row a hit and TF: hit (number of the line), tf, chrom, start, end, score (at most 1); and notes."""
    codes, motifs = pd.factorize(cells.frame[cells.first_of(MOTIF_COLUMNS)].astype(str))
    tfs = [tfs_of_motif(name, genes) for name in motifs]
    score, notes = _scores(cells)
    hits = pd.DataFrame({
        "hit": np.arange(len(codes)), "code": codes, "chrom": regions.chrom, "start": regions.start, "end": regions.end,
        "score": score,
    })[regions.placed]  # fmt: skip
    of_motif = pd.DataFrame({
        "code": np.repeat(np.arange(len(motifs)), [len(some) for some in tfs]),
        "tf": [tf for some in tfs for tf in some],
    })  # fmt: skip
    hits = hits.merge(of_motif, on="code")
    return hits.astype({"chrom": "category", "tf": "category"}), notes  # sorted a hundred times as fast as text


def _scores(cells: Cells) -> tuple[np.ndarray, list[str]]:
    """float64 at most 1; a note where no score is above 0, and all hits count alike.

    Raises:
      InputError: a score is no finite number; "." is none given.
    """
    column = cells.first_of(SCORE_COLUMNS)
    ones = np.ones(len(cells.line))
    if column is None or (cells.frame[column].astype(str).isin([".", ""])).all():
        return ones, []
    score = finite_numbers(cells, column)
    if score.max() <= 0:
        return ones, [f"no {column} of the motif hits is above 0: all of them count alike"]
    return score / score.max(), []


def _composed(hits: pd.DataFrame, genes: GeneTable, build: str | None) -> tuple[pd.DataFrame, int]:
    """The statements of hits (no TF twice at a place), and how many hits are of no gene."""
    places = hits[["chrom", "start", "end"]].drop_duplicates()
    links = link_regions(places["chrom"].astype(str), places["start"], places["end"], genes, build=build)
    place = hits.merge(places.assign(place=np.arange(len(places))), on=["chrom", "start", "end"], how="left")["place"]
    place = place.to_numpy(np.int64)
    first = np.searchsorted(links.region, np.arange(len(places) + 1))
    many = np.diff(first)[place]
    of_hit = np.repeat(np.arange(len(hits)), many)
    begins = np.cumsum(many) - many
    of_link = np.repeat(first[place] - begins, many) + np.arange(len(of_hit))
    strength = np.minimum(links.weight * links.strength[links.region], 1.0).astype(np.float64)
    chance = strength[of_link] * hits["score"].to_numpy()[of_hit]
    codes, tfs = hits["tf"].cat.codes.to_numpy(), hits["tf"].cat.categories
    key = codes[of_hit].astype(np.int64) * len(genes.gene_ids) + links.gene[of_link]
    keys, group = np.unique(key, return_inverse=True)
    none = np.bincount(group, np.log1p(-np.minimum(chance, 1 - 1e-12)), len(keys))
    weight = -np.expm1(none)
    ids = np.array(genes.gene_ids, dtype=object)
    frame = pd.DataFrame({
        "tf": np.asarray(tfs, dtype=object)[keys // len(ids)],
        "target": ids[keys % len(ids)],
        "sign": np.zeros(len(keys), np.int8),
        "contradicts": np.zeros(len(keys), bool),
        "weight": weight / weight.max(initial=np.finfo(np.float64).tiny),
        "confidence": "",
        "tissue": "",
    })  # fmt: skip
    return frame[frame["weight"] > 0], int(hits["hit"][many == 0].nunique())
