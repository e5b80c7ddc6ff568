"""Small random regulatory networks, for tests of what is made of them."""

import numpy as np
import pandas as pd

GENES = 40


def some_edges(seed: int = 0, genes: int = GENES, tfs: int = 8, edges: int = 160, relations: int = 2) -> pd.DataFrame:
    """Edges as `read_networks` gives them: of every sign, of hubs and others, some in several relations.

    TFs lie anywhere among the genes and regulate one another as well; the last gene is in no edge.
    """
    rng = np.random.default_rng(seed)
    regulators = rng.permutation(genes - 1)[:tfs]
    targets = np.concatenate([regulators, np.delete(np.arange(genes - 1), regulators)])  # TFs are among the hubs
    frame = pd.DataFrame(
        {
            "tf": regulators[(tfs * rng.random(edges) ** 1.5).astype(int)].astype(np.int32),
            "target": targets[(len(targets) * rng.random(edges) ** 1.5).astype(int)].astype(np.int32),
            "relation": rng.integers(relations, size=edges).astype(np.int16),
            "sign": rng.integers(-1, 2, edges).astype(np.int8),
            "weight": rng.uniform(0.1, 1, edges).astype(np.float32),
            "confidence": "",
        }
    )
    frame = frame[frame["tf"] != frame["target"]].drop_duplicates(["tf", "target", "relation"])
    return frame.sort_values(["relation", "tf", "target"], ignore_index=True)


def pairs_of(frame: pd.DataFrame) -> set[tuple[int, int]]:
    """The (tf, target) pairs of some edges."""
    return set(zip(frame["tf"].tolist(), frame["target"].tolist(), strict=True))
