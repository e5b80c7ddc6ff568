"""What the portal's model is: what its pages say of it, and what a look at an upload needs of it.

The model is loaded once, in a process of its own, when the portal starts; the server itself never loads it. `look.py` then
needs its genes alone, and no JAX.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from mofm.errors import InputError
from mofm.files import written_whole

CARD, GENES, GENE_TABLE = "model.json", "genes.parquet", "gene_table.parquet"


@dataclass(frozen=True)
class ModelCard:
    """A model in words.

    Attributes:
      name, step: of the run, and its checkpoint.
      modalities: what it was trained on.
      species, builds: whose cells it reads, and the genome builds in which their regions may be.
      has_own_genes: its species is none of those that mofm ships.
      genes: how many it knows.
      translates: whether it predicts modalities from one another.
      networks: names of its regulatory networks.
      labels: what its annotation head names, such as cell_type; "" where it has none.
      labelled: modalities that the head reads.
      ontology: the file whose broader terms it gives too; "" for none.
      version: of mofm.
    """

    name: str
    step: int
    modalities: tuple[str, ...]
    species: str
    builds: tuple[str, ...]
    has_own_genes: bool
    genes: int
    translates: bool
    networks: tuple[str, ...]
    labels: str
    labelled: tuple[str, ...]
    ontology: str
    version: str


def read_card(folder: Path) -> ModelCard:
    """What `main` wrote."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return ModelCard(**{key: tuple(value) if isinstance(value, list) else value for key, value in card.items()})


def read_known(folder: Path, card: ModelCard):
    """The model's genes (columns id, symbol, measured), and the species' gene table or what `gene_table` finds it by."""
    import pandas as pd

    return pd.read_parquet(folder / GENES), folder / GENE_TABLE if card.has_own_genes else card.species


def main(model: str, out: str, ontology: str = "") -> int:
    """Load a model and write what it is into a folder; `ontology` is the file that its labels are to be terms of, if any."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import mofm
    from mofm.inference.model import load
    from mofm.inference.naming import lineage_of
    from mofm.omics.genome import COLUMNS, METADATA, is_bundled
    from mofm.omics.ontology import read_ontology

    try:
        loaded, folder = load(model), Path(out)
        named_by, heads = loaded.named_by, loaded.heads
        if ontology and not heads:
            raise InputError(f"--ontology {ontology}: the model has no annotation head whose labels it could broaden")
        for head in heads.of.values() if ontology else ():
            lineage_of(head.labels, read_ontology(Path(ontology)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    card = ModelCard(
        name=Path(model).resolve().name,
        step=loaded.step,
        modalities=tuple(loaded.spec.modalities),
        species=named_by.species,
        builds=tuple(named_by.builds),
        has_own_genes=not is_bundled(named_by),
        genes=len(loaded.genes),
        translates=bool(loaded.spec.translates),
        networks=() if loaded.network is None else tuple(loaded.network.relations),
        labels=heads.label_key if heads else "",
        labelled=tuple(heads.of) if heads else (),
        ontology=Path(ontology).name if ontology else "",
        version=mofm.__version__,
    )
    loaded.genes.to_parquet(folder / GENES)
    if card.has_own_genes:
        table = pa.Table.from_pandas(named_by.frame[list(COLUMNS)], preserve_index=False)
        pq.write_table(
            table.replace_schema_metadata({name: getattr(named_by, name) for name in METADATA}), folder / GENE_TABLE
        )
    with written_whole(folder / CARD) as temporary:
        temporary.write_text(json.dumps(asdict(card)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
