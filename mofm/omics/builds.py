"""What genome builds are called, and how a build stands before the name of a region.

mofm has four builds (`SPECIES`). `PREFIX` knows many more by the form of their names, so that a region of another build
is never taken for one of these four, nor its build for a part of its chromosome's name.
"""

import re

from mofm.errors import InputError, nearest_name

SPECIES = {"GRCh38": "human", "GRCh37": "human", "GRCm38": "mouse", "GRCm39": "mouse"}
"""The builds, and the species of each."""

ALIASES = {
    **{"hg38": "GRCh38", "hg19": "GRCh37", "b37": "GRCh37", "hs37d5": "GRCh37", "humang1kv37": "GRCh37"},
    **{"mm10": "GRCm38", "mm39": "GRCm39"},
}
"""Other names of the builds, compared in lower case without punctuation and without a patch (".p14")."""

_FORMS = (
    *SPECIES,
    *ALIASES,
    r"GRC[a-z]\d+[a-z]?",  # GRCm37, GRCz11, GRCg7b
    r"(?:hg|mm|rn|dm|ce)\d{1,2}",  # UCSC
    r"(?-i:[a-z]{3}[A-Z][a-z]{2}\d{1,2})",  # UCSC: danRer11, galGal6
    r"NCBIM?\d\d",  # NCBI36, NCBIM37
    r"b3[67]",
    r"hs1",
    r"(?:T2T-)?CHM13(?:v\d(?:\.\d)?)?",
)

# "HG19_PATCH" is a contig of Ensembl's and no build; what is left of a name must be a chromosome.
PREFIX = rf"(?:(?P<build>(?i:{'|'.join(_FORMS)})(?:\.p\d+)?)_+(?!(?i:\w*PATCH)))?"
"""Of a regular expression: the build in front of a region's name, as in "GRCh38_chr1:1-2" or "mm10___chr1"; may be absent."""

_ANY = re.compile("|".join(_FORMS), re.IGNORECASE)
_PATCH = re.compile(r"\.p\d+$", re.IGNORECASE)


def plain_name(name: str) -> str:
    """A build by mofm's name, "GRCh38" for "hg38", "GRCh38.p14" or "grch38"; one that mofm does not have without patch."""
    bare = _PATCH.sub("", name.strip())
    return _KNOWN.get(_key(bare), bare)


def build_in_name(text: str) -> str:
    """The build that a text names and nothing else, by its plain name; "" where it names none."""
    plain = plain_name(text)
    return plain if plain in SPECIES or _ANY.fullmatch(plain) else ""


def build_name(name: str) -> str:
    """Like `plain_name`, of the builds that mofm has.

    Raises:
      InputError: it is none of them.
    """
    plain = plain_name(name)
    if plain not in SPECIES:
        hint = nearest_name(_key(plain), _KNOWN)
        raise InputError(f"unknown genome build {name!r}; give --build one of {', '.join(SPECIES)}.{hint}")
    return plain


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_KNOWN = {**{_key(build): build for build in SPECIES}, **ALIASES}
