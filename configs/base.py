"""mofm base: about 100 M parameters, for a pod slice or a box of GPUs.

    mofm train --config configs/base.py --config.data.corpus=CORPUS --workdir runs/base

Every key of every group is listed, with what it means, in the dataclass that the group is named after: data in
mofm/batches/config.py, encoder in mofm/nn/model.py, objectives in mofm/objectives/total.py, optimizer in
mofm/training/optimizer.py, run in mofm/training/config.py, mesh in mofm/parallel/mesh.py. What is not set here keeps
the default that stands there.
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
