"""mofm pod: 1.3 billion parameters, for a whole pod of 256 TPU v5e chips.

    mofm plan --config configs/pod.py --topology v5e:16x16
    launch/tpu_pod.sh --name mofm-pod --zone ZONE --type v5litepod-256 --share HOST:/EXPORT --spot -- \\
        --config configs/pod.py --config.data.corpus=gs://BUCKET/corpus --workdir /mnt/mofm/runs/pod

Weights and moments are cut 16 ways (fsdp), cells over all 256 chips: 16 cells of 1,024 tokens a chip. What the first command
said is in README.md; nothing of this size has run. What is not set here is as in configs/base.py.
"""

from ml_collections import ConfigDict

from mofm.configs import base


def get_config() -> ConfigDict:
    """A child of base."""
    config = base.get_config()
    config.data.update({"batch_size": 4_096})
    config.encoder.update({"width": 2048, "blocks": 24, "heads": 16, "ffn": 5632, "cell_width": 512, "remat": "full"})
    config.optimizer.update({"learning_rate": 2e-4, "warmup_steps": 4_000})
    config.mesh.update({"data": -1, "fsdp": 16, "tensor": 1})
    return config
