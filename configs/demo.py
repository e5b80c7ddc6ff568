"""mofm demo: what `bash launch/quickstart.sh` trains, in minutes on two CPU cores.

    mofm demo

It is `mofm train --config configs/demo.py --config.data.corpus=runs/demo/corpus --workdir runs/demo/run` between the
making of its data and its report.
"""

from ml_collections import ConfigDict

from mofm.configs import small


def get_config() -> ConfigDict:
    """A child of small."""
    config = small.get_config()
    config.data.update({"tokens": 128, "holdout_fraction": 0.2})
    config.encoder.update({"width": 96, "heads": 3, "ffn": 256, "cell_width": 96})
    config.run.update({"steps": 500, "log_every": 20, "eval_every": 100, "checkpoint_every": 100})
    return config
