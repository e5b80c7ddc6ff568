"""What fixes a model's shapes: the sizes that a config names, and what its corpus adds to them."""

from dataclasses import dataclass
from typing import NamedTuple

from mofm.axes import MODALITIES, Modality
from mofm.errors import InputError, check_at_least
from mofm.nn.encoder import Remat
from mofm.nn.fusion import FusionConfig
from mofm.nn.grn import GrnConfig
from mofm.nn.translator import TranslatorConfig

ROW_MULTIPLE = 128
"""The gene table is padded to a multiple of this, so that it divides over any mesh axis up to 128."""


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the model.

    Attributes:
      width: D, of the residual stream and of a gene's row. Divisible by `heads`.
      blocks: depth of the encoder that all modalities share.
      modality_blocks: depth of the encoder that each modality has before it; 0 for none.
      heads: H, attention heads.
      ffn: inner width of the SwiGLU layers (about 8/3 of width costs what a 4x ReLU layer does).
      cell_width: E, width of the cell embedding, what `mofm embed` writes.
      private_width: its last columns that are a modality's own: they serve its own decoder, and no other modality's.
      bins: V, soft bins of a token's value.
      region_rows: hashed rows of their own that regions and proteins have beside their genes' rows; 0 for none, so that
        a region of a new data set is known as well as one of training.
      compute_dtype: "bfloat16" or "float32", of activations and products; parameters and reductions are float32.
      remat: what the backward pass keeps: "none" (everything), "dots" or "full" (least memory).
    """

    width: int = 256
    blocks: int = 6
    modality_blocks: int = 0
    heads: int = 8
    ffn: int = 704
    cell_width: int = 128
    private_width: int = 0
    bins: int = 16
    region_rows: int = 0
    compute_dtype: str = "bfloat16"
    remat: Remat = "none"

    def __post_init__(self):
        check_at_least("encoder", self, ("width", "blocks", "heads", "ffn", "cell_width"), 1)
        check_at_least("encoder", self, ("modality_blocks", "private_width", "region_rows"), 0)
        if self.private_width >= self.cell_width:
            raise InputError(
                f"encoder.private_width={self.private_width} leaves nothing of encoder.cell_width={self.cell_width} to share"
            )
        if self.bins < 2:
            raise InputError(f"encoder.bins={self.bins}: at least 2 are needed to place a value between them")
        if self.width % self.heads:
            raise InputError(f"encoder.width={self.width} is not divisible by encoder.heads={self.heads}")
        for name, allowed in (("compute_dtype", ("bfloat16", "float32")), ("remat", ("none", "dots", "full"))):
            if getattr(self, name) not in allowed:
                raise InputError(f"encoder.{name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}")


class ModelSpec(NamedTuple):
    """All that fixes a model's shapes. Hashable: a static argument.

    Attributes:
      encoder: its sizes.
      known_genes: how many genes it knows.
      grn: sizes of the graph network; of no matter without relations.
      relations: regulatory networks that it knows; 0 for none.
      modalities: those that it is trained on, in the order of `MODALITIES`: of these it has encoders and translators.
      translator: sizes of the translator.
      contrasts: whether its views are contrasted, at a temperature that is learned.
      fusion: how it fuses the views of one cell.
    """

    encoder: EncoderConfig
    known_genes: int
    grn: GrnConfig = GrnConfig()
    relations: int = 0
    modalities: tuple[Modality, ...] = MODALITIES
    translator: TranslatorConfig = TranslatorConfig()
    contrasts: bool = False
    fusion: FusionConfig = FusionConfig()

    def check(self) -> None:
        """Raises `InputError` where the sizes do not go together."""
        if self.relations and self.grn.width > self.encoder.width:
            raise InputError(f"grn.width={self.grn.width} is more than encoder.width={self.encoder.width}: lower it")

    @property
    def genes(self) -> int:
        """G, rows of the gene table: the genes known, padded."""
        return -(-self.known_genes // ROW_MULTIPLE) * ROW_MULTIPLE

    @property
    def translates(self) -> bool:
        """Whether it has a translator."""
        return self.translator.blocks > 0 and len(self.modalities) > 1

    @property
    def fuses(self) -> bool:
        """Whether it fuses the views of one cell."""
        return self.fusion.blocks > 0 and len(self.modalities) > 1

    @property
    def shared_width(self) -> int:
        """S, columns of the cell embedding that are not a modality's own."""
        return self.encoder.cell_width - self.encoder.private_width
