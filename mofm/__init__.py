"""mofm: foundation models of single-cell multi-omics data, in JAX. README.md shows the map of the house."""

__version__ = "0.1.0"
