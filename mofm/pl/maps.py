"""Cells on a map of their embedding."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from blake3 import blake3
from matplotlib.axes import Axes

from mofm.errors import InputError, nearest_name
from mofm.evaluation.figures import draw_points, umap_coordinates
from mofm.omics.held import Held
from mofm.pl.paper import axes_for_each, checked, name_axes, one_or_all

DIGEST = "{basis}_umap_of"
"""Key of uns: what was embedded, so that the UMAP of another embedding is not taken for it."""


def embedding(
    adata: Held,
    color: str | Sequence[str] | None = None,
    *,
    basis: str = "X_mofm",
    layer: str | None = None,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes | list[Axes]:
    """Cells on a map, coloured by a category, with a legend that counts them, or by a number.

    An embedding of more than two columns is laid out by UMAP (scanpy's; 15 neighbours), which is kept in
    obsm[basis + "_umap"] and not made again; of a view nothing is kept. Cells without an embedding (NaN) are not drawn.

    Args:
      color: columns of obs, or genes (drawn as X, or `layer`, holds them); several give a list of Axes; None for none.
      basis: a key of obsm: the embedding, or coordinates that are there, as "X_umap". Of more than two columns it is
        embedded by UMAP.
      seed: of the UMAP and of the order in which points are drawn.

    Raises:
      InputError: no such obsm, fewer than 4 cells for a UMAP, or neither a column nor a gene of that name.
    """
    names = [""] if color is None else [color] if isinstance(color, str) else list(color)
    values = [_values(checked(adata), name, layer) for name in names]
    coords_N2 = _coordinates(adata, basis, seed)
    shown = np.flatnonzero(np.isfinite(coords_N2).all(axis=1))
    shown = np.random.default_rng(seed).permutation(shown)  # no category always lies on top
    drawn = axes_for_each(names, ax, 5.6, 3.9)
    way = basis.removeprefix("X_") if _is_plane(adata, basis) else f"UMAP of {basis.removeprefix('X_')}"
    for axes, name, of in zip(drawn, names, values, strict=True):
        draw_points(axes, coords_N2[shown], of.iloc[shown], name, _palette(adata, name, of))
        if not name:
            axes.get_legend().remove()
        name_axes(axes, f"{way}, 1", f"{way}, 2")
    return one_or_all(drawn, "" if color is None else color)


def _values(adata: Held, name: str, layer: str | None) -> pd.Series:
    """What cells are coloured by: a column of obs, a gene, or nothing."""
    if not name:
        return pd.Series("cells", index=adata.obs_names)
    if name in adata.obs:
        return adata.obs[name]
    if hasattr(adata, "X") and name in adata.var_names:
        one = adata[:, name]
        if one.n_vars > 1:
            raise InputError(
                f"{one.n_vars} features are called {name!r}: adata.var_names_make_unique() makes them differ"
            )
        if layer is not None and layer not in adata.layers:
            raise InputError(f"no layer {layer!r}.{nearest_name(layer, adata.layers)}")
        counts = one.X if layer is None else one.layers[layer]
        return pd.Series(np.asarray(counts.toarray() if sp.issparse(counts) else counts).ravel(), adata.obs_names)
    known = [*map(str, adata.obs.columns), *map(str, adata.var_names)]
    raise InputError(f"neither a column of obs nor a feature is called {name!r}.{nearest_name(name, known)}")


def _palette(adata: Held, name: str, values: pd.Series) -> dict[str, str] | None:
    """Colours that scanpy gave the categories of a column."""
    colours = adata.uns.get(f"{name}_colors")
    if colours is None or not isinstance(values.dtype, pd.CategoricalDtype):
        return None
    kinds = values.cat.categories.astype(str)
    return dict(zip(kinds, map(str, colours), strict=True)) if len(kinds) == len(colours) else None


def _is_plane(adata: Held, basis: str) -> bool:
    return np.shape(adata.obsm[basis])[1] == 2


def _coordinates(adata: Held, basis: str, seed: int) -> np.ndarray:
    """Two a cell; NaN of a cell that has no embedding."""
    if basis not in adata.obsm:
        makes = "model.embed(adata) or `mofm embed` makes it" if basis == "X_mofm" else "give a key that is there"
        raise InputError(f"obsm has no {basis!r}; {makes}.{nearest_name(basis, adata.obsm)}")
    X_ND = np.asarray(adata.obsm[basis], np.float32)
    if _is_plane(adata, basis):
        return X_ND
    kept, digest_key = f"{basis}_umap", DIGEST.format(basis=basis)
    digest = blake3(np.ascontiguousarray(X_ND).tobytes()).hexdigest() + f" seed {seed}"
    if kept in adata.obsm and str(adata.uns.get(digest_key)) == digest:
        return np.asarray(adata.obsm[kept])
    embedded = np.isfinite(X_ND).all(axis=1)
    coords_N2 = np.full((len(X_ND), 2), np.nan, np.float32)
    coords_N2[embedded] = umap_coordinates(X_ND[embedded], seed)
    if not adata.is_view:
        adata.obsm[kept], adata.uns[digest_key] = coords_N2, digest
    return coords_N2
