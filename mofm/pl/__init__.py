"""Plots of what mofm wrote into an AnnData, as `scanpy.pl` draws what scanpy wrote: `mofm.pl`.

    mofm.pl.embedding(adata, color="cell_type")          after model.embed, or `mofm embed`
    mofm.pl.confidence(adata)                            after model.annotate
    mofm.pl.confusion(adata, "cell_type")                the same beside a column of truth
    mofm.pl.regulators(adata)                            after model.regulators
    mofm.pl.perturbation(adata)                          after model.perturb
    mofm.pl.correlations(predicted, measured)            predicted = model.translate(...): how well is each feature predicted
    mofm.pl.translation(predicted, measured, "CD4")      one feature, cell by cell
    mofm.pl.calibration(predicted, measured)             are errors as large as layers["sd"] says
    mofm.pl.history("runs/mine")                         losses of a run against the mean predictor

Data come first and are not written to, but for a UMAP that `embedding` keeps. Each function draws into `ax`, or into a figure
of its own, and returns the Axes; where several columns are asked for, a list of Axes. Nothing is shown by force: a notebook
shows the figure by itself, a script says `plt.show()` or `ax.figure.savefig("figure.png")`. What is missing is said in an
`InputError` that names the call which makes it. No model is needed here, and no jax is loaded.

Colours are those of `evaluation/figures.py`, which colour-blind eyes distinguish; a category that scanpy has coloured (in
uns["KEY_colors"]) keeps its colours.
"""

from mofm.pl.labels import confidence, confusion
from mofm.pl.losses import history
from mofm.pl.maps import embedding
from mofm.pl.predictions import calibration, correlations, translation
from mofm.pl.regulation import perturbation, regulators

__all__ = [
    "calibration",
    "confidence",
    "confusion",
    "correlations",
    "embedding",
    "history",
    "perturbation",
    "regulators",
    "translation",
]
