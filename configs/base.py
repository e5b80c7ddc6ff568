"""mofm base: about 100 M parameters, for a pod slice or a box of GPUs.

    mofm train --config configs/base.py --config.data.corpus=CORPUS --workdir runs/base

Every key of every group is explained, with its default, in the dataclass of the group; `mofm train --help` says in which file.
What is not set here keeps that default.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The parent of every other config."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {"batch_size": 512, "tokens": 1024, "expressed_fraction": 0.75, "holdout_fraction": 0.01},
            "encoder": {
                "width": 1024,
                "blocks": 8,
                "heads": 8,
                "ffn": 2816,
                "cell_width": 256,
                "compute_dtype": "bfloat16",
                "remat": "dots",
            },
            "objectives": {"mask_rate": 0.4, "mask_spread": 0.3},
            "optimizer": {"learning_rate": 3e-4, "warmup_steps": 2_000},
            "run": {"steps": 100_000, "eval_every": 2_000, "checkpoint_every": 2_000},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        }
    )
