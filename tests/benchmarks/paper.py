"""Makes every figure of the README anew: runs the benchmarks that it quotes, one after another.

    MOFM_DATA=FOLDER python tests/benchmarks/paper.py OUT [--only batches peers] [--list]

Each writes its tables to OUT/NAME.txt; one that is there to its end is passed over, so an interrupted run goes on. On two
cores without an accelerator all take some days. --list says what would be run, and which sentence of the README stands
on it; RESULTS.md names the command of each of its tables in the same way.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
DONE = "# done\n"


class Figure(NamedTuple):
    """Attributes: script, of this folder, or a test beside it; options; says, what the README takes from it."""

    script: str
    options: tuple[str, ...]
    says: str

    def command(self, out: Path) -> list[str]:
        """What makes it; OUT in an option is the folder of all figures."""
        first = ["-m", "pytest", "--all", "-q"] if self.script.startswith("../") else []
        options = [option.replace("OUT", str(out)) for option in self.options]
        return [sys.executable, *first, str(HERE / self.script), *options]


PEERS = ("--peers", "OUT/peers/bin/python")
FIGURES = {
    "pictures": Figure("../test_tutorial.py", (), "the six plots: docs/tutorial.ipynb still draws them"),
    "cell_types": Figure("cell_types.py", (), "what nearest neighbours and a linear probe read off the embedding"),
    "start": Figure("start_components.py", (), "what a gene of little signal weighs at the start"),
    "pretraining": Figure("pretraining.py", ("--data", "blood"), "few labels of another laboratory's cells"),
    "batches": Figure("batches.py", PEERS, "batches mixed, beside PCA, Harmony and scVI"),
    "unpaired": Figure("unpaired.py", (), "RNA and chromatin of different cells in one space"),
    "regulation": Figure("regulation.py", (), "held-out edges of a network"),
    "translation": Figure("translation.py", ("--mofm", *PEERS), "translation, every setting and fold"),
    "labels": Figure("labels.py", (), "labels learned and told"),
    "perturbation": Figure(
        "perturbation.py",
        ("--data", "simulated", "--cells", "4000", "--steps", "50"),
        "responses of types of which no treated cell was shown",
    ),
    "perturbation_kang": Figure("perturbation.py", ("--data", "kang", "--steps", "50"), "the same of blood cells"),
    "stream": Figure("stream.py", (), "the stream beside annbatch"),
    "size": Figure("size.py", (), "the stream of ten million cells beside that of fewer"),
    "ingest": Figure("ingest.py", (), "an ingest beside annbatch"),
    "peers": Figure("peers.py", ("--environment", "OUT/peers", "--folds", "5"), "all peers in one table"),
    "ablations": Figure("ablations.py", ("--rows", "OUT/ablations.jsonl"), "what each objective is worth"),
    "scaling_study": Figure(
        "scaling_study.py",
        ("--rows", "OUT/scaling_study.jsonl", "--figure", "OUT/scaling_study.png"),
        "which config for which budget",
    ),
}


def main() -> None:
    """Make those that are missing."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path, nargs="?", default=Path("runs/paper"))
    arguments.add_argument("--only", nargs="+", choices=list(FIGURES), default=list(FIGURES), metavar="NAME")
    arguments.add_argument("--list", action="store_true", help="say what would be run")
    args = arguments.parse_args()
    chosen = {name: FIGURES[name] for name in FIGURES if name in args.only}
    if args.list:
        for name, figure in chosen.items():
            print(f"{name}: {figure.says}\n    python {' '.join(figure.command(args.out)[1:])}")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    if any(PEERS[0] in figure.options for figure in chosen.values()):
        from peers import environment  # imports JAX, which --list need not

        environment(args.out / "peers")
    failed = [name for name, figure in chosen.items() if not is_made(name, figure, args.out)]
    sys.exit(f"failed: {', '.join(failed)}; see {args.out}/NAME.txt" if failed else None)


def is_made(name: str, figure: Figure, out: Path) -> bool:
    """Whether its file is there to its end, made now if need be."""
    path = out / f"{name}.txt"
    if path.exists() and path.read_text().endswith(DONE):
        print(f"{name}: {path} is there")
        return True
    print(f"{name}: {figure.says}", flush=True)
    with path.open("w") as file:
        code = subprocess.run(figure.command(out), stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        file.write("" if code else DONE)
    return not code


if __name__ == "__main__":
    main()
