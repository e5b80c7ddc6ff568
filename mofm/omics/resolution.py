"""What all resolutions of names have in common: how many there were, and what became of them."""

from collections.abc import Mapping, Sequence

import numpy as np


def count_names(
    ids: Sequence[str], how: np.ndarray, rule: np.ndarray, rules: Mapping[str, str]
) -> dict[str, int | dict[str, int]]:
    """Counts for a manifest: names, each `how`, names merged into another, and names by rule.

    Args:
      ids: identity of each name.
      how, rule: str, equally long. How each was resolved, and by which of `rules` in detail.
      rules: rule -> the `how` that it counts as.
    """
    by_rule = {key: int(np.count_nonzero(rule == key)) for key in rules}
    return {
        "names": len(ids),
        **{key: int(np.count_nonzero(how == key)) for key in dict.fromkeys(rules.values())},
        "merged": len(ids) - len(set(ids)),
        "by_rule": {key: count for key, count in by_rule.items() if count},
    }


def unresolved_among(ids: Sequence[str], how: np.ndarray) -> list[str]:
    """Identities that were not resolved, each once, in order of appearance."""
    return list(dict.fromkeys(ids[place] for place in np.flatnonzero(how == "unresolved")))
