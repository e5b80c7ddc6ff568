"""Random feature spaces, for tests of what is said of features that are not genes."""

import jax
import jax.numpy as jnp
import numpy as np

from mofm.batch import PLACES, FeatureSpace


def some_space(rng: np.random.Generator, features: int = 40, links: int = 2, genes: int = 40) -> FeatureSpace:
    """Features that each speak of some of the genes, anywhere, each in a bucket of its own."""
    space = FeatureSpace(
        genes_FK=rng.integers(0, genes, (features, links)).astype(np.int32),
        weights_FK=rng.dirichlet(np.ones(links), features).astype(np.float32),
        place_FP=rng.normal(size=(features, PLACES)).astype(np.float32),
        bucket_F=np.arange(features, dtype=np.int32),
        base_F=rng.normal(size=features).astype(np.float32),
        spread_F=rng.normal(size=features).astype(np.float32),
    )
    return jax.tree.map(jnp.asarray, space)
