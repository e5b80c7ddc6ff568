"""The alphabet of mofm: every array names its axes by these letters, and every weight names its axes by these words.

Shapes live in names: `counts_BL` is (cells, tokens), `state_BLD` is (cells, tokens, width). Within a function a letter has
one meaning, and in the model these:

    B  cells of a batch                        L  tokens of a cell
    N  cells of a store, a file or a split     M  tokens that those L attend to; in the network, its edges
    G  rows of the gene table                  D  width of the encoder
    F  features of one omics type              H  attention heads
    E  width of the cell embedding             K  width of one head
    S  the columns of it that omics share      V  soft bins of a token's value
    C  classes of a label                      Q  TF -> target pairs asked about
    T  transcription factors                   R  width of a gene's state in the network

In `nn/readout.py` M is omics types. Linear models (`linear/`) have K components and M data sets, and R is what they are found
off or read in. In evaluation D is draws of a bootstrap. Any other letter is of one file, whose docstrings say what it counts.

Logical axis names are what a weight says of itself ("embed", "heads", ...). Which mesh axis each is laid over is
decided in `parallel/rules.py` alone, so that a model file never names a device.
"""

import typing

# Logical axes of weights.
GENES = "genes"  # rows of the gene table
EMBED = "embed"  # the residual stream's width
FFN = "ffn"  # the feed-forward layer's inner width
HEADS = "heads"  # attention heads
HEAD_WIDTH = "head_width"  # width of one head
BINS = "bins"  # soft bins of a value
BLOCKS = "blocks"  # the scanned stack of encoder blocks
CELL_EMBED = "cell_embed"  # width of the cell embedding
NETWORK = "network"  # width of a gene's state in the regulatory network, where a weight takes it in
NETWORK_OUT = "network_out"  # the same, where a weight gives it out
LOGICAL_AXES = (GENES, EMBED, FFN, HEADS, HEAD_WIDTH, BINS, BLOCKS, CELL_EMBED, NETWORK, NETWORK_OUT)

# Logical axes of activations.
CELLS = "cells"  # the batch
TOKENS = "tokens"
EDGES = "edges"  # of the regulatory network

# Mesh axes, outermost first.
DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
MESH_AXES = (DATA, FSDP, TENSOR)

Modality = typing.Literal["rna", "atac", "adt", "methylation"]
MODALITIES: tuple[Modality, ...] = typing.get_args(Modality)
"""The omics types, in the order of the rows of the tokenizer's modality table."""

FEATURES: dict[Modality, str] = {"rna": "genes", "atac": "peaks", "adt": "antibodies", "methylation": "features"}
"""What a person calls the features of each. Those of methylation are regions or genes."""
