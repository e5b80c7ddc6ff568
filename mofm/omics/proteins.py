"""Protein identity: which antigen an antibody's name means, and which genes encode it, whatever the vendor calls it.

An antibody is its antigen: the gene's symbol where one gene encodes it in its only form, and a name of its own where
it is a complex or a form of a protein ("CD3", "CD45RA", "HLA-DR", "TCRgd"), listed in `data/antibodies.tsv`. A name is
read by itself: neither the order of names nor their company changes what it means.

Where the facts come from. The table was written by hand after the CD nomenclature (HCDM, hcdm.org) and HGNC, and holds
only what one gene's symbols and aliases cannot say: complexes, isoforms, carbohydrates (given the gene of the enzyme
that makes them, as HGNC does), chains of receptors, and names that several genes share. All else is a symbol or an
Ensembl alias (`aliases`), CD numbers among them. The tests hold every gene of it against the bundled gene tables.

Choices and their cost:
- Two clones against one antigen are one feature and are summed, as two names of one gene are; "CD3-1" and "CD3-2" of
  one panel become "CD3". What distinguishes the clones is lost; that they were merged is counted.
- Letters' case, punctuation and Greek are ignored: "IL7Rα", "IL-7R alpha" and "IL7Ra" are one name.
- Vendors' decorations are taken off (`_PREFIX`, `_SUFFIX`): TotalSeq letters and numbers, barcodes, "anti-human", BD's
  clone|gene|number. Of what is left, the whole is tried first, then what stands before and in brackets, then what
  stands on the sides of slashes, then ever shorter beginnings: "CD4_RPA-T4" is CD4 and a clone.
- "IgG1", "IgG2a" and their like are isotype controls, with or without an animal, as panels use them; "IgM", "IgD" and
  "IgG Fc" alone are antigens of B cells. Controls encode nothing and are marked.
- What cannot be read keeps its name less decorations, has no genes, is counted, and can be listed.
"""

import csv
import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mofm.omics.aliases import aliases_of
from mofm.omics.genome import GeneTable
from mofm.omics.resolution import ResolvedNames

RULES = {
    "table": "table",  # CD3, CD45RA, HLA-DR: in data/antibodies.tsv
    "symbol": "symbol",  # CD19, Notch 1
    "alias": "alias",  # CD20, Integrin alpha-X
    "several": "table",  # CD235a/CD49f: antigens of several names
    "control": "control",  # IgG1 control, Rat IgG2b, kappa isotype Ctrl
    "unknown": "unresolved",
}
"""How a name was read in detail, and the `how` that each counts as."""

_TABLE = Path(__file__).with_name("data") / "antibodies.tsv"

_GREEK = str.maketrans("αβγδεζκλμΑΒΓΔ", "abgdezklmabgd")
_GREEK_WORDS = re.compile(r"alpha|beta|gamma|delta|epsilon|kappa|lambda|theta")
_DECORATION = r"(?:totalseq[-_ ]?(?:tm|™)?[-_ ]?[abcd]?|tsq?[abc]|prot(?:ein)?|adt|ab|antibody|pabo|ahs\d+)"
_PREFIX = re.compile(
    rf"^(?:{_DECORATION}[-_.: ]+|[ABCD]\d{{4}}[-_ ]+|anti[-_. ]?(?:(?:human|mouse|rat|hu|ms)[-/_. ]*)*"
    r"|(?:human|hu(?:/?ms)?(?:rt)?)[._ ]+|(?:mouse|ms)[._ ]+(?!ig))(?=\w)",
    re.I,
)
_SUFFIX = re.compile(rf"(?:[-_.: ]+{_DECORATION}|[-_:][ACGT]{{10,}}|[-_][ABCD]\d{{4}})$", re.I)
_REPEAT = re.compile(r"(.*[^-_. ])[-_.]\d$")
_BRACKETS = re.compile(r"([^(\[]*)[(\[]([^)\]]*)[)\]]?(.*)")
_SUBUNITS = re.compile(r"([A-Za-z]+[- ]?\d+)([a-z])((?:/[a-z])+)$", re.I)  # CD66a/c/e

_ANIMAL = r"(?:rabbit|mouse|ms|m|rat|rt|r|armenianhamster|armenian|armham|arm|syrianhamster|syrian|hamster|ham|goat)"
_ANIMALS = {
    **{"rabbit": "rabbit", "r": "rat", "m": "mouse", "goat": "goat"},
    **{"h": "hamster", "a": "hamster", "s": "hamster"},  # Armenian and Syrian
}
_SAID = r"(?:isotype|iso|control|contrl|ctrl|ctl)"
_CLASS = r"ig(?:g[1-4]?[abc]?|m|a|d|e)"
_CONTROL = re.compile(
    rf"(?P<before>(?:{_ANIMAL}|{_SAID})*)(?P<ig>{_CLASS})(?P<chain>(?:[kl]|fc)?)(?P<after>(?:{_ANIMAL}|{_SAID}|[kl])*)"
)
_ALWAYS_CONTROL = frozenset({"igg1", "igg2a", "igg2b", "igg2c"})
_NO_ANTIGEN = re.compile(rf"{_SAID}+\d*|(?:negative|neg){_SAID}\d*")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ProteinResolution(ResolvedNames):
    """What N antibodies bind (see `ResolvedNames`).

    Attributes:
      ids: its antigen, as a symbol or a name of the table; for a control what it is ("rat IgG2b
        control"); else the name itself, less decorations.
      symbols: the name less decorations, for people.
      genes: Ensembl ids of the encoding genes; empty for controls and for what was not read.
      control: bool[N], True for isotype controls.
      how: "table", "symbol", "alias", "control" or "unresolved".
    """

    rules = RULES

    symbols: list[str]
    genes: list[tuple[str, ...]]
    control: np.ndarray


def resolve_proteins(names: Sequence[str], table: GeneTable) -> ProteinResolution:
    """The antigen of each of `names`, of the species of `table`. Raises nothing."""
    lookups = _lookups(table)
    plain = [_undecorated(str(name)) for name in names]
    found = [_resolve(str(name), bare, lookups) for name, bare in zip(names, plain, strict=True)]
    rule = np.array([rule for rule, _, _ in found], dtype=np.str_)
    return ProteinResolution(
        ids=[antigen for _, antigen, _ in found],
        symbols=plain,
        genes=[tuple(table.gene_ids[row] for row in rows) for _, _, rows in found],
        control=rule == "control",
        how=np.array([RULES[key] for key in rule], dtype=np.str_),
        rule=rule,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Lookups:
    """What resolving needs of one gene table: antigen and rows by the key of a name."""

    listed: dict[str, tuple[str, tuple[int, ...]]]
    symbols: dict[str, tuple[str, tuple[int, ...]]]
    aliases: dict[str, tuple[str, tuple[int, ...]]]


@functools.cache
def _lookups(table: GeneTable) -> _Lookups:
    with _TABLE.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file, delimiter="\t") if line["species"] == table.species]
    listed = {}
    for line in lines:
        genes = [table.row_of_symbol[gene] for gene in line["genes"].split() if gene in table.row_of_symbol]
        for name in (line["id"], *line["names"].split("; ")):
            listed[_key(name)] = (line["id"], tuple(genes))
    biotypes = table.frame["biotype"].astype(str)
    encodes = (biotypes.eq("protein_coding") | biotypes.str.match(r"(IG|TR)_[CDJV]_gene|IG_LV_gene")).tolist()
    symbols = ((_key(symbol), row) for symbol, row in table.row_of_symbol.items() if encodes[row])
    rows = table.row_of_id
    aliases = ((_key(alias), rows[gene]) for alias, gene in aliases_of(table.species).items() if encodes[rows[gene]])
    return _Lookups(listed, _by_key(symbols, table), _by_key(aliases, table))


def _by_key(pairs: Iterator[tuple[str, int]], table: GeneTable) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Antigen and row by key, for keys of two characters or more that mean one gene."""
    rows: dict[str, set[int]] = {}
    for key, row in pairs:
        rows.setdefault(key, set()).add(row)
    return {
        key: (table.symbols[min(of_it)], tuple(of_it))
        for key, of_it in rows.items()
        if len(of_it) == 1 and len(key) >= 2
    }


def _resolve(name: str, bare: str, lookups: _Lookups) -> tuple[str, str, tuple[int, ...]]:
    """Rule, antigen and rows of a name."""
    for reading in (name, *_readings(bare)):
        if control := _control(reading):
            return "control", control, ()
        if found := _look_up(reading, lookups):
            return found
        if found := _several(reading, lookups):
            return found
    return "unknown", bare, ()


def _look_up(reading: str, lookups: _Lookups) -> tuple[str, str, tuple[int, ...]] | None:
    key = _key(reading)
    for rule, known in (("table", lookups.listed), ("symbol", lookups.symbols), ("alias", lookups.aliases)):
        if key in known:
            return rule, *known[key]
    return None


def _several(reading: str, lookups: _Lookups) -> tuple[str, str, tuple[int, ...]] | None:
    """Antigens on the sides of slashes, all of which must be known: CD11a/CD18, CD235a/b, CD45R/B220."""
    if match := _SUBUNITS.fullmatch(reading):
        parts = [match[1] + letter for letter in (match[2], *match[3][1:].split("/"))]
    else:
        parts = [part for part in re.split(r"[/+]", reading) if part.strip()]
    found = [_look_up(part, lookups) for part in parts]
    if len(parts) < 2 or None in found:
        return None
    antigens = list(dict.fromkeys(antigen for _, antigen, _ in found))
    rows = tuple(dict.fromkeys(row for _, _, rows in found for row in rows))
    return "several", "/".join(antigens), rows


def _readings(bare: str) -> Iterator[str]:
    """What a name less decorations may mean, the likeliest first."""
    yield bare
    if match := _REPEAT.fullmatch(bare):
        yield match[1]
    if match := _BRACKETS.fullmatch(bare):
        yield from _shortened(match[1])
        yield match[2]
        yield from re.split(r"[,;/]", match[2])
        return
    if "|" in bare:  # BD AbSeq: CD11b:ICRF44|ITGAM|AHS0184|pAbO
        fields = bare.split("|")
        yield from _shortened(fields[0])
        yield fields[1]
        return
    yield from _shortened(bare)


def _shortened(text: str) -> Iterator[str]:
    """The text, and ever shorter beginnings of it: a clone stands at the end."""
    text = text.strip(" -_.,:;")
    yield text
    for marks in (r"[_:|, ]", r"[-_:|,. ]"):
        cuts = [match.start() for match in re.finditer(marks, text)]
        for cut in reversed(cuts):
            if cut >= 3:
                yield text[:cut]


def _undecorated(name: str) -> str:
    """A name without what vendors and pipelines put around it, as long as something is left."""
    name = " ".join(name.replace("™", "").replace("®", "").split())
    while True:
        shorter = _SUFFIX.sub("", _PREFIX.sub("", name)).strip(" -_:")
        if shorter in ("", name):
            return name
        name = shorter


def _control(reading: str) -> str | None:
    """What an isotype control is ("mouse IgG1 control"), None for a name that is none."""
    key = _key(reading)
    if _NO_ANTIGEN.fullmatch(key):
        return "control"
    match = _CONTROL.fullmatch(key)
    if match is None or match["chain"] == "fc":
        return None
    around = match["before"] + match["after"]
    said = re.search(_SAID, around)
    animal = re.search(_ANIMAL, re.sub(_SAID, "", around))
    if not (said or animal or match["ig"] in _ALWAYS_CONTROL):
        return None
    of_animal = next((f"{long} " for short, long in _ANIMALS.items() if animal and animal[0].startswith(short)), "")
    return f"{of_animal}Ig{match['ig'][2].upper()}{match['ig'][3:]} control"


@functools.lru_cache(maxsize=65536)
def _key(name: str) -> str:
    """Letters and digits alone, in lower case, with Greek as the letters it stands for. What stands between two digits
    stays as a dot: CD3-1 is not CD31."""
    plain = _GREEK_WORDS.sub(lambda word: word[0][0], name.translate(_GREEK).lower())
    return re.sub(r"[^a-z0-9.]", "", re.sub(r"(?<!\d)\.|\.(?!\d)", "", re.sub(r"(?<=\d)[^a-z0-9]+(?=\d)", ".", plain)))
