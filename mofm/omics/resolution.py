"""What all resolutions of names have in common: identities, how each was found, and the counts of both."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ResolvedNames:
    """What N names mean, in their order. Subclasses say of what, and what else is known of it.

    Attributes:
      rules: of the subclass; every way to read a name -> the `how` that it counts as.
      ids: identity of each name. Names of one thing have one identity.
      how: str[N], one of the values of `rules`; "unresolved" where a name was not read.
      rule: str[N], the key of `rules` that applied.
    """

    rules: ClassVar[Mapping[str, str]]

    ids: list[str]
    how: np.ndarray
    rule: np.ndarray

    @property
    def unresolved(self) -> list[str]:
        """Identities that were not resolved, each once, in order of appearance."""
        return list(dict.fromkeys(self.ids[place] for place in np.flatnonzero(self.how == "unresolved")))

    def summary(self) -> dict[str, int | dict[str, int]]:
        """Counts for a manifest: names, each `how`, names merged into another, names by rule."""
        by_rule = {key: int(np.count_nonzero(self.rule == key)) for key in self.rules}
        return {
            "names": len(self.ids),
            **{key: int(np.count_nonzero(self.how == key)) for key in dict.fromkeys(self.rules.values())},
            "merged": len(self.ids) - len(set(self.ids)),
            "by_rule": {key: count for key, count in by_rule.items() if count},
        }
