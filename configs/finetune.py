"""mofm finetune: a pretrained model, trained further on a corpus of one's own of some thousand cells.

    mofm ingest cells.h5ad corpus/
    mofm finetune MODEL --config configs/finetune.py --config.data.corpus=corpus/ --workdir runs/mine
    mofm embed runs/mine cells.h5ad cells_embedded.h5ad

The encoder, the translator and the regulatory network are MODEL's, and cannot be set; objectives and tokens of a cell are
as it was trained with. The learning rate is about a tenth of pretraining's, so that what the model knows is moved and not
replaced. A tenth of the cells is held out, and the run ends where four evaluations in a row brought no lower held-out loss;
verbs then take the best step, which may be 0, MODEL as it was. Hold out whole data sets instead by data.holdout_datasets,
or donors by data.holdout_groups. With --task annotation:COLUMN and --tune lora or full the labels of held-out cells say
which step is the best.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The whole of it: what is not here is MODEL's, or a default."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {"batch_size": 64, "holdout_fraction": 0.1},
            "optimizer": {"learning_rate": 1e-4, "warmup_steps": 50, "final_share": 0.0},
            "run": {"steps": 2_000, "eval_every": 100, "checkpoint_every": 100, "patience": 4},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        }
    )
