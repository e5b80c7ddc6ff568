"""The peer of step.py: the same encoder in PyTorch, eager, with `scaled_dot_product_attention`; started by step.py.

    python tests/benchmarks/step_torch.py '{"cells": 16, "tokens": 512, "genes": 2000, ...}'

Imports nothing of mofm, so that it runs in an environment of PyTorch's own. Prints "ready" after three warm steps, then
for each line on stdin takes one step and prints its seconds, and those of CPU time. The model is of the same arithmetic
(FLOPs as step.py counts them): gene rows scaled and shifted by soft-binned values, pre-norm blocks with QK-norm, SDPA
and SwiGLU, an attention pool, both negative-binomial answers, fused AdamW and clipping. Nothing is rematerialised;
bfloat16 is by autocast.
"""

import json
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

BINS_TO = 8.0


@dataclass
class Sizes:
    """As in mofm's EncoderConfig, and the batch's."""

    cells: int
    tokens: int
    genes: int
    width: int
    blocks: int
    heads: int
    ffn: int
    cell_width: int
    bins: int
    compute_dtype: str
    compile: bool


class RMSNorm(nn.RMSNorm):
    """In float32, as mofm's."""

    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


class SwiGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.heads, width = sizes.heads, sizes.width
        self.norm_1, self.norm_2 = RMSNorm(width), RMSNorm(width)
        self.query_norm, self.key_norm = (RMSNorm(width // sizes.heads) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.ffn = SwiGLU(width, sizes.ffn)

    def forward(self, x_BLD, mask_B11L):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_1(x_BLD)).chunk(3, dim=-1)
        )
        out_BHLK = F.scaled_dot_product_attention(self.query_norm(q), self.key_norm(k), v, attn_mask=mask_B11L)
        x_BLD = x_BLD + self.out(out_BHLK.transpose(1, 2).flatten(2))
        return x_BLD + self.ffn(self.norm_2(x_BLD))


class Model(nn.Module):
    """Tokens -> log rates of every token from its state and from the cell embedding, and log dispersions."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.width
        self.heads = sizes.heads
        self.rows = nn.Embedding(sizes.genes, width)
        self.genes = nn.Embedding(sizes.genes, 4)  # bias, log dispersion, slope of depth, log gain
        nn.init.normal_(self.rows.weight, std=0.03)
        nn.init.zeros_(self.genes.weight)
        self.shift, self.scale = (nn.Linear(sizes.bins + 1, width, bias=False) for _ in range(2))
        self.register_buffer("centres", torch.linspace(0.0, BINS_TO, sizes.bins))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.blocks))
        self.norm = RMSNorm(width)
        self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.key_norm = RMSNorm(width // sizes.heads)
        self.query = nn.Parameter(torch.randn(sizes.heads, width // sizes.heads))
        self.to_cell = nn.Linear(width, sizes.cell_width, bias=False)
        self.cell_norm, self.cell_ffn = RMSNorm(sizes.cell_width), SwiGLU(sizes.cell_width, sizes.ffn)
        self.cell = nn.Linear(sizes.cell_width, width, bias=False)
        self.token = nn.Linear(width, width, bias=False)

    def forward(self, batch, hidden_BL):
        rows_BLD = self.rows(batch["features"])
        bias_BL, log_dispersion_BL, slope_BL, log_gain_BL = self.genes(batch["features"]).unbind(-1)
        weights_BLV = self.soft_bins(batch["values"], hidden_BL)
        x_BLD = rows_BLD * (0.5 + self.scale(weights_BLV)) + self.shift(weights_BLV)
        for block in self.blocks:
            x_BLD = block(x_BLD, batch["mask"][:, None, None])
        states_BLD = self.norm(x_BLD)
        shown_BL = batch["mask"] & ~hidden_BL
        weight_BL = torch.where(shown_BL, batch["values"], 0.0) * log_gain_BL.exp()
        profile_BD = torch.einsum("bl,bld->bd", weight_BL, rows_BLD) / (weight_BL.sum(1, keepdim=True) + 1e-3)
        cell_BE = self.to_cell(profile_BD + self.pool(states_BLD, batch["mask"]))
        cell_BE = cell_BE + self.cell_ffn(self.cell_norm(cell_BE))
        bias_BL = bias_BL + slope_BL * batch["log_exposure"][:, None]
        token_BL = bias_BL + (self.token(states_BLD).float() * rows_BLD).sum(-1)
        cell_BL = bias_BL + torch.einsum("bd,bld->bl", self.cell(cell_BE).float(), rows_BLD)
        return token_BL, cell_BL, log_dispersion_BL

    def soft_bins(self, values_BL, hidden_BL):
        distance_BLV = values_BL[..., None] - self.centres
        weights_BLV = torch.softmax(-((distance_BLV / self.centres[1]) ** 2), -1) * ~hidden_BL[..., None]
        return torch.cat([weights_BLV, hidden_BL[..., None].float()], -1)

    def pool(self, states_BLD, mask_BL):
        keys_BLHK = self.key_norm(self.key(states_BLD).unflatten(-1, (self.heads, -1)))
        values_BLHK = self.value(states_BLD).unflatten(-1, (self.heads, -1))
        logits_BHL = torch.einsum("hk,blhk->bhl", self.query, keys_BLHK) * self.query.shape[-1] ** -0.5
        shares_BHL = logits_BHL.masked_fill(~mask_BL[:, None], -1e9).softmax(-1)
        return torch.einsum("bhl,blhk->bhk", shares_BHL, values_BLHK).flatten(1)


def negative_binomial_nll(counts, log_mean, log_dispersion, log_zero_weight):
    """Nats of each count, given that it was shown (`sampled_nll` of `mofm/objectives/likelihoods.py`)."""
    theta = log_dispersion.exp()
    log_sum = torch.logaddexp(log_mean, log_dispersion)
    fixed = torch.lgamma(counts + theta) - torch.lgamma(theta) - torch.lgamma(counts + 1)
    nll_of_zero = -theta * (log_dispersion - log_sum)
    log_above_zero = torch.log(-torch.expm1(-nll_of_zero.clamp(min=1e-7)))
    log_shown = torch.logaddexp(-nll_of_zero - log_zero_weight, log_above_zero) + (counts == 0) * log_zero_weight
    return nll_of_zero - fixed - counts * (log_mean - log_sum) + log_shown


def make_batch(sizes: Sizes, device: str) -> dict[str, torch.Tensor]:
    """Random counts; every token is one, as in step.py's batches, and the mask is passed all the same."""
    generator = torch.Generator().manual_seed(0)
    features = torch.stack([torch.randperm(sizes.genes, generator=generator) for _ in range(sizes.cells)])
    counts = torch.poisson(torch.full((sizes.cells, sizes.tokens), 2.0), generator=generator)
    batch = {
        "features": features[:, : sizes.tokens],
        "counts": counts,
        "values": torch.log1p(counts),
        "mask": torch.ones(sizes.cells, sizes.tokens, dtype=torch.bool),
        "log_exposure": torch.zeros(sizes.cells),
        "log_zero_weight": torch.zeros(sizes.cells, 1),
    }
    return {name: value.to(device) for name, value in batch.items()}


def make_step(sizes: Sizes, device: str):
    """A function () -> None that takes one training step."""
    torch.manual_seed(0)
    model, batch = Model(sizes).to(device), make_batch(sizes, device)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.05, fused=True)
    dtype = getattr(torch, sizes.compute_dtype)

    def loss() -> torch.Tensor:
        hidden_BL = torch.rand(batch["mask"].shape, device=device) < 0.4
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            *log_rates, log_dispersion_BL = model(batch, hidden_BL)
        counts_BL, weight_B1 = batch["counts"], batch["log_zero_weight"]
        losses = (negative_binomial_nll(counts_BL, rate_BL, log_dispersion_BL, weight_B1) for rate_BL in log_rates)
        return sum((nll_BL * hidden_BL).sum() / hidden_BL.sum() for nll_BL in losses)

    computed = torch.compile(loss) if sizes.compile else loss

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        computed().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    """Warm, then a step a line."""
    sizes = Sizes(**json.loads(sys.argv[1]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    step = make_step(sizes, device)
    for _ in range(3):
        step()
    print(f"ready: PyTorch {torch.__version__}, {device}, {torch.get_num_threads()} threads", flush=True)
    for _ in sys.stdin:
        begin, cpu = time.perf_counter(), time.process_time()
        step()
        print(time.perf_counter() - begin, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main()
