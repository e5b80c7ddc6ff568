"""`mofm finetune`: a trained model and a corpus to a model of that corpus."""

import sys
from pathlib import Path

from mofm.cli.options import add_model_argument, add_step_option, add_verb
from mofm.cli.train import add_run_options, run_to_its_end


def add(verbs) -> None:
    """Adds `mofm finetune`."""
    verb = add_verb(
        verbs,
        "finetune",
        run,
        "Train a pretrained model further on a corpus of one's own; the same command resumes a stopped run.",
        "The encoder, translator and network are MODEL's. Genes are matched by their ids; those that MODEL does not know\n"
        "begin as average genes. WORKDIR is then a run as any other: its step 0 is MODEL, and verbs take the step of lowest\n"
        "held-out loss. The corpus may be paired or not; it can lack modalities of MODEL, and have none that MODEL never saw.\n"
        "  mofm finetune blood-v1 --config configs/finetune.py --config.data.corpus=corpus/ --workdir runs/mine",
    )
    add_model_argument(verb)
    add_step_option(verb)
    add_run_options(verb, "a config file, such as configs/finetune.py")


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    import jax

    from mofm.errors import InputError
    from mofm.export.parts import is_bundle, read_parts
    from mofm.training.config import read_values
    from mofm.training.origin import finetune_config

    values = read_values(args.config)

    def begin():
        if jax.process_count() > 1 and not str(args.model).startswith("hf:") and not is_bundle(Path(args.model)):
            raise InputError(
                f"{args.model}: is a run, which several processes cannot read at once; `mofm export` it, and give the bundle"
            )
        origin = read_parts(args.model, args.step).origin()
        config = finetune_config(values, args.overrides, origin)
        if not args.quiet:
            print(f"from {origin.name}, step {origin.step}", file=sys.stderr)
        return config, origin

    return run_to_its_end(args, begin)
