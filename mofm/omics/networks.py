"""Tables of gene regulatory networks as edges between the rows of a model's gene table.

Each table becomes one relation: what DoRothEA says and what motifs say stay apart, for a model to weigh. What tables look
like is said in `network_columns` and, of motif hits, in `motifs`; what their names mean in `network_names`.

Choices and their cost:
- An edge is in a relation once. Of several lines of one TF and target the largest weight and the best confidence are
  kept: A before B, high before low, a large number before a small one, anything before nothing.
- Lines that disagree on the sign leave an edge whose sign is not known: that the TF regulates the gene, both say.
- A TF that regulates itself is left out: a model of a gene from its regulators would read it off itself.
- Whatever does not become an edge is counted by its reason in the report, and named where it has a name. Of lines,

      lines = left out (unnamed, undirected, zero weight, by confidence, by tissue) + of unknown names + used
      pairs = absent + self-loops + duplicates + edges

  where pairs are those of the lines used, one a line but for complexes, of whose genes each is one.
- The order of lines changes nothing.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics import motifs, network_columns
from mofm.omics.genome import GeneTable
from mofm.omics.network_columns import Statements
from mofm.omics.network_files import Cells, plain, read_cells
from mofm.omics.network_levels import check_levels, confidence_rank, of_levels
from mofm.omics.network_names import Meanings, meanings, some_of
from mofm.omics.orthologs import other_species
from mofm.omics.regions import CHROM_COLUMNS

NAMED = 20
"""So many of the genes that a network has and the model has not are named in a report."""

_SUFFIXES = (".gz", ".bgz", ".tsv", ".csv", ".txt", ".parquet", ".bed")
_HEADER_WORDS = frozenset([
    *network_columns.TF_COLUMNS, *network_columns.TARGET_COLUMNS, *motifs.MOTIF_COLUMNS, *motifs.PEAK_COLUMNS,
    *map(plain, CHROM_COLUMNS),
])  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The edges of one or more networks between the genes of a model.

    Attributes:
      edges: a row an edge, sorted by (relation, tf, target), each of which is there once. tf, target: int32, rows of the
        gene table. relation: int16, place in `relations`. sign: int8, 1 activates, -1 represses, 0 not known. weight:
        float32 in (0, 1], comparable within a relation. confidence: str, "" not given.
      relations: names of the relations, in the order of the tables.
      report: by relation, what became of its lines: counts and lists of names, JSON-able.
      notes: what a person should know, a line each.
    """

    edges: pd.DataFrame
    relations: tuple[str, ...]
    report: dict[str, dict]
    notes: tuple[str, ...]


def read_networks(
    tables: Sequence[str | Path],
    genes: pd.DataFrame,
    species: GeneTable,
    *,
    confidences: Sequence[str] = (),
    tissues: Sequence[str] = (),
    build: str | None = None,
) -> Network:
    """The edges that tables of networks and of motif hits give between the genes of a model.

    Args:
      tables: each a path, or "NAME=PATH". A relation is called NAME or as the file without its suffixes.
      genes: the rows of the model's gene table: columns id (Ensembl id, or a feature's own name), symbol and measured.
      species: the genes of the model's species.
      confidences, tissues: only lines of one of these levels are read; tissues are compared without letter case.
      build: genome build of the places of motif hits; None takes it from their names or finds it by evidence.

    Raises:
      InputError: a table cannot be read, names no TF and target, has weights that are no finite numbers or signs that
        are no signs, is of another species, or has no edge between genes of the model; two tables have one name; or a
        level is asked for that is in no table, or of a table that has none.
    """
    paths = _paths(tables)
    read = {name: read_table(path, species, build) for name, path in paths.items()}
    asked = {"confidence": tuple(confidences), "tissue": tuple(tissues)}
    for kind, wanted in asked.items():
        check_levels(read, paths, kind, wanted)
    edges, report, notes = [], {}, []
    for number, (name, said) in enumerate(read.items()):
        kept, left_out = of_levels(said, asked)
        found, counts = _edges(paths[name], kept, genes, species)
        edges.append(found.assign(relation=np.int16(number)))
        report[name] = {"path": str(paths[name]), "layout": said.layout, "lines": said.lines}
        report[name] |= {"undirected": 0} | said.left_out | left_out | counts
        notes += [f"{name}: {line}" for line in (_sentence(report[name], species), *said.notes)]
    return Network(_in_order(edges), tuple(paths), report, tuple(notes))


def read_table(path: Path, species: GeneTable, build: str | None = None) -> Statements:
    """What one table says, by the names that it uses: of TFs and targets, or of motif hits.

    Raises:
      InputError: as `read_networks`, of what can be known without the genes of a model.
    """
    cells = open_table(path)
    if motifs.holds_hits(cells):
        return motifs.read_hits(cells, species, build)
    return network_columns.read_statements(cells)


def open_table(path: Path) -> Cells:
    """The cells of a table, of a network or not; raises `InputError` where it cannot be read."""
    return read_cells(path, _HEADER_WORDS)


def _paths(tables: Sequence[str | Path]) -> dict[str, Path]:
    """The path of each relation by its name."""
    paths = {}
    for table in tables:
        name, mark, rest = str(table).partition("=")
        is_named = bool(mark and name and rest) and "/" not in name and not isinstance(table, Path)
        path = Path(rest if is_named and not Path(table).exists() else table)
        name = name if is_named and path == Path(rest) else _stem(path)
        if name in paths:
            raise InputError(
                f"{paths[name]} and {path}: two relations named {name!r}; name them apart as NAME=PATH, such as "
                f"{name}2={path}"
            )
        paths[name] = path
    return paths


def _stem(path: Path) -> str:
    name = path.name
    while (suffix := Path(name).suffix) in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _edges(path: Path, said: pd.DataFrame, genes: pd.DataFrame, species: GeneTable) -> tuple[pd.DataFrame, dict]:
    """The edges of a relation and what is counted of them.

    Raises:
      InputError: the names are of another species, or no two of them are genes of the model.
    """
    said = said.sort_values(["tf", "target"], kind="stable")
    tf_codes, tf_names = pd.factorize(said["tf"])
    target_codes, target_names = pd.factorize(said["target"])
    tfs, targets = meanings(tf_names, genes, species), meanings(target_names, genes, species)
    unknown_tfs, unknown_targets = tfs.unknown(tf_names), targets.unknown(target_names)
    _check_species(path, [*tf_names, *target_names], [*unknown_tfs, *unknown_targets], species)
    used = np.isin(tf_codes, tfs.place) & np.isin(target_codes, targets.place)
    pairs = _pairs(said[used], tf_codes[used], target_codes[used], tfs, targets)
    present = (pairs["tf"] >= 0) & (pairs["target"] >= 0)
    loops = present & (pairs["tf"] == pairs["target"])
    edges, conflicts = _merged(pairs[present & ~loops])
    if edges.empty:
        raise InputError(
            f"{path}: none of {len(said):,} lines joins two genes of the model (it names {some_of(tf_names[:3])} and "
            f"{some_of(target_names[:3])}, the model {some_of(genes['symbol'].astype(str)[:3])}); give a network whose genes "
            "the model has, by Ensembl id or symbol"
        )
    symbols = genes["symbol"].to_numpy()
    absent = sorted(set(targets.symbol[targets.row < 0]))
    return edges, {
        "lines_of_unknown_names": int(np.count_nonzero(~used)),
        "pairs": len(pairs),
        "absent_pairs": int(np.count_nonzero(~present)),
        "self_loops": int(np.count_nonzero(loops)),
        "duplicates": int(np.count_nonzero(present & ~loops)) - len(edges),
        "edges": len(edges),
        "tfs": int(edges["tf"].nunique()),
        "targets": int(edges["target"].nunique()),
        "activating": int((edges["sign"] == 1).sum()),
        "repressing": int((edges["sign"] == -1).sum()),
        "sign_unknown": int((edges["sign"] == 0).sum()),
        "sign_conflicts": int(conflicts.sum()),
        "sign_conflicts_first": [
            f"{symbols[tf]} -> {symbols[target]}"
            for tf, target in edges.loc[conflicts, ["tf", "target"]].head(5).itertuples(index=False)
        ],
        "complexes": sorted({*tfs.complexes, *targets.complexes}),
        "unknown_tfs": unknown_tfs,
        "unknown_targets": unknown_targets,
        "absent_tfs": sorted(set(tfs.symbol[tfs.row < 0])),
        "absent_targets": {"count": len(absent), "first": absent[:NAMED]},
    }


def _check_species(path: Path, names: list[str], unknown: list[str], species: GeneTable) -> None:
    if 2 * len(unknown) > len(names) and (other := other_species(names, species)):
        name, share = other
        raise InputError(
            f"{path}: {share:.0%} of the names are {name} genes (first: {str(names[0])!r}), and {species.species} ones "
            f"are expected; give the network of {species.species} (DoRothEA, CollecTRI and TRRUST have one of each), or use "
            f"--species {name} with a corpus or model of that species"
        )


def _pairs(
    said: pd.DataFrame, tf_codes: np.ndarray, target_codes: np.ndarray, tfs: Meanings, targets: Meanings
) -> pd.DataFrame:
    """A row a pair of genes that a statement is of: columns tf, target (int64 rows, -1 absent) and those of `said`."""
    pairs = said[["sign", "contradicts", "weight", "confidence"]].assign(tf_code=tf_codes, target_code=target_codes)
    for kind, meant in (("tf", tfs), ("target", targets)):
        rows = pd.DataFrame({f"{kind}_code": meant.place, kind: meant.row})
        pairs = pairs.merge(rows, on=f"{kind}_code")
    return pairs


def _merged(pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """One row a TF and target, and which of these are said to be both activated and repressed."""
    levels = sorted(pairs["confidence"].unique(), key=confidence_rank)
    pairs = pairs.assign(
        up=(pairs["sign"] > 0) | pairs["contradicts"],
        down=(pairs["sign"] < 0) | pairs["contradicts"],
        level=pd.Categorical(pairs["confidence"], levels).codes,
    )
    merged = pairs.groupby(["tf", "target"], sort=True).agg(
        {"weight": "max", "up": "max", "down": "max", "level": "min"}
    )
    edges = merged.reset_index()
    sign = edges["up"].astype(np.int8) - edges["down"].astype(np.int8)
    weight = np.maximum(edges["weight"].to_numpy(np.float32), np.finfo(np.float32).tiny)
    confidence = np.array(levels, dtype=object)[edges["level"].to_numpy(np.int64)] if len(edges) else ""
    conflicts = edges["up"] & edges["down"]
    return edges.assign(sign=sign.astype(np.int8), weight=weight, confidence=confidence), conflicts.astype(bool)


def _in_order(edges: list[pd.DataFrame]) -> pd.DataFrame:
    types = {
        "tf": np.int32, "target": np.int32, "relation": np.int16, "sign": np.int8, "weight": np.float32,
        "confidence": object,
    }  # fmt: skip
    if not edges:
        return pd.DataFrame({name: np.empty(0, kind) for name, kind in types.items()})
    joined = pd.concat(edges, ignore_index=True)[list(types)].astype(types)
    return joined.sort_values(["relation", "tf", "target"], kind="stable", ignore_index=True)


def _sentence(report: dict, species: GeneTable) -> str:
    """What became of a table, in one line; of what was left out, the reasons that there were."""
    left_out = [
        (len(report["unknown_tfs"]), f"TFs mean no {species.species} gene ({some_of(report['unknown_tfs'])})"),
        (len(report["unknown_targets"]), f"targets mean none ({some_of(report['unknown_targets'])})"),
        (len(report["absent_tfs"]), f"TFs are not in the model ({some_of(report['absent_tfs'])})"),
        (report["absent_targets"]["count"], f"targets are not ({some_of(report['absent_targets']['first'])})"),
        (report["sign_conflicts"], f"edges of both signs have none ({some_of(report['sign_conflicts_first'])})"),
        (report["duplicates"], "duplicates are merged"),
        (report["self_loops"], "self-loops are left out"),
        (report["undirected"], "lines without direction are left out"),
        (report["unnamed"], "lines without a TF or target are left out"),
        (report["zero_weight"], "lines of weight 0 are left out"),
        (report.get("unplaced", 0), "hits have no place"),
        (report.get("unlinked", 0), "hits are near no gene"),
        (report.get("same_place", 0), "hits are at the place of another of their TF"),
        (report["left_out_by_confidence"], "lines of other confidence are left out"),
        (report["left_out_by_tissue"], "lines of other tissues are left out"),
    ]
    made = f"{report['edges']:,} edges of {report['tfs']:,} TFs and {report['targets']:,} targets, of {report['lines']:,} lines"
    return "; ".join([made, *(f"{count:,} {what}" for count, what in left_out if count)])
