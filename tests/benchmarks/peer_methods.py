"""Published methods on the same cells, in an environment of their own: this script imports nothing of mofm.

    python -m venv PEERS && PEERS/bin/pip install scvi-tools scglue harmonypy
    PEERS/bin/python tests/benchmarks/peer_methods.py METHOD IN.h5mu OUT.npz [--epochs N] [--seed 0]

`translation.py --peers PEERS/bin/python` writes IN, calls this, and reads OUT. IN holds raw counts; cells of one name
are one cell. What is asked of a method is what IN leaves out:

    totalvi   RNA and ADT; cells without ADT are imputed. OUT: cells, adt (expected counts, background left out)
    multivi   RNA and ATAC; cells without one of them are imputed. OUT: rna_cells, rna (frequencies), atac_cells, atac
              (chances that a peak is open), of the cells that lack it
    scvi      RNA, obs `batch` and `shown`. Learned from the cells that are shown; the others are encoded, their batch known.
              OUT: cells, embedding
    harmony   RNA, obs `batch`: 30 components of all cells, corrected together (Harmony has no model of new cells). OUT: as scvi
    scglue    RNA and another modality, whose pairing is not used. OUT: rna, and atac or adt: embeddings of all cells.
              `var` has chrom, start, end (and strand of genes) of one build, or, of proteins, `genes` (ids that the index
              of RNA has, by ";"): the guidance graph is made of them

Their authors' defaults and tutorials, with these choices:
- totalVI: 4,000 variable genes (seurat_v3; of the cells that have RNA), the batch is "has ADT or not", imputation of
  25 samples as if measured together with those that have ADT. At most 400 epochs (its own heuristic).
- MultiVI: features of fewer than 1% of cells are left out, and predicted by 0, which is no loss where the task judges
  none of them. The batch is the set of modalities. At most 500 epochs, early stopping. Learning rate 1e-3: with its
  own of 1e-4 it said nothing of cells after 60 epochs of 3,000 simulated cells (AUROC .499; .537 with this).
- scglue: all genes up to 2,000 variable ones (seurat_v3); 100 components (PCA; LSI); negative binomial; its two stages
  with automatic epochs. Peaks that no chosen gene reaches are left out. A peak is joined to a gene whose body or 2 kb
  upstream it overlaps (its default), weight 1; a protein to the genes that encode it. Proteins are encoded through
  their own counts, not components. bedtools is not needed: the overlaps are counted here.
  Where its balancing of cells gives NaN, as after few epochs, it is fitted again without (OUT says `balanced`).
`--seconds` ends the training of scvi-tools' models after so long, and gives scglue's two stages the epochs that fit
into it by three that are timed; `--epochs` lowers the most epochs (of each of scglue's stages, of which the second
aligns in its last two thirds): say so beside the numbers. `--patient` trains scvi-tools' models for all of them,
without early stopping. One thread: on a busy machine two of torch's wait for each other and are many times slower.
"""

import argparse
import logging
import time
import warnings

import numpy as np
import scipy.sparse as sp

warnings.filterwarnings("ignore")

PROMOTER = 2_000


def main() -> None:
    """Run one method on one file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("method", choices=list(METHODS))
    arguments.add_argument("input")
    arguments.add_argument("output")
    arguments.add_argument("--epochs", type=int, help="at most this many")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--seconds", type=float, help="of training at most (scglue: about)")
    arguments.add_argument("--lr", type=float, default=1e-3, help="of MultiVI")
    arguments.add_argument("--patient", action="store_true", help="scvi-tools: no early stopping, all epochs")
    args = arguments.parse_args()
    import mudata

    logging.getLogger("lightning").setLevel(logging.ERROR)
    mdata = mudata.read_h5mu(args.input)
    for adata in mdata.mod.values():
        adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    began = time.perf_counter()
    found, epochs = METHODS[args.method](mdata.mod, args)
    np.savez(args.output, **found, seconds=time.perf_counter() - began, epochs=epochs)


def totalvi(mod, args):
    """Proteins of the cells that have none."""
    import scvi

    scvi.settings.seed = args.seed
    rna, adt = mod["rna"].copy(), mod["adt"]
    rna = rna[:, variable(rna, 4_000)].copy()
    has = rna.obs_names.isin(adt.obs_names)
    counts = np.zeros((rna.n_obs, adt.n_vars), np.float32)  # a batch with nothing but zeros counts as not measured
    counts[has] = adt[rna.obs_names[has]].X.toarray()
    rna.obsm["protein"], rna.uns["protein_names"] = counts, adt.var_names.to_numpy(str)
    rna.obs["batch"] = np.where(has, "measured", "missing")
    scvi.model.TOTALVI.setup_anndata(
        rna, protein_expression_obsm_key="protein", protein_names_uns_key="protein_names", batch_key="batch"
    )
    model = scvi.model.TOTALVI(rna)
    model.train(max_epochs=args.epochs or 400, early_stopping=not args.patient, **on_cpu(args))
    proteins = model.get_normalized_expression(
        indices=np.flatnonzero(~has), transform_batch="measured", n_samples=25, return_mean=True, return_numpy=True
    )[1]
    return {"cells": rna.obs_names[~has].to_numpy(str), "adt": proteins}, ran(model)


def multivi(mod, args):
    """RNA of the cells without, and chromatin of the cells without."""
    import anndata as ad
    import mudata
    import scvi

    scvi.settings.seed = args.seed
    rna, atac = mod["rna"], mod["atac"].copy()
    atac.X.data[:] = 1
    cells = rna.obs_names.union(atac.obs_names, sort=True)
    has_rna, has_atac = cells.isin(rna.obs_names), cells.isin(atac.obs_names)
    kept_rna, kept_atac = (np.flatnonzero(x.X.getnnz(axis=0) >= 0.01 * x.n_obs) for x in (rna, atac))
    parts = {"rna": (rna, kept_rna), "atac": (atac, kept_atac)}
    # A cell's missing modality is a row of zeros, by which MultiVI knows that it is missing.
    full = {name: ad.AnnData(spread(table, cells)[:, kept].tocsr()) for name, (table, kept) in parts.items()}
    for name, (table, kept) in parts.items():
        full[name].obs_names, full[name].var_names = cells, table.var_names[kept]
    mdata = mudata.MuData(full)
    mdata.obs["modality"] = np.select([has_rna & has_atac, has_rna], ["paired", "expression"], "accessibility")
    places = {"rna_layer": "rna", "atac_layer": "atac"}
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key="modality", modalities=places)
    model = scvi.model.MULTIVI(mdata, n_genes=len(kept_rna), n_regions=len(kept_atac))
    model.train(max_epochs=args.epochs or 500, lr=args.lr, early_stopping=not args.patient, **on_cpu(args))
    found = {}
    jobs = (
        ("rna", rna, kept_rna, ~has_rna, model.get_normalized_expression),
        ("atac", atac, kept_atac, ~has_atac, model.get_normalized_accessibility),
    )
    for name, table, kept, asked, predict in jobs:
        if asked.any():
            values = np.zeros((asked.sum(), table.n_vars), np.float32)
            told = predict(
                indices=np.flatnonzero(asked), transform_batch="paired" if (has_rna & has_atac).any() else None
            )
            values[:, kept] = np.asarray(told.toarray() if sp.issparse(told) else told)
            found |= {f"{name}_cells": cells[asked].to_numpy(str), name: values}
    return found, ran(model)


def scvi(mod, args):
    """The latent means of all cells; scVI's defaults, with early stopping."""
    import scvi as tools

    tools.settings.seed = args.seed
    rna = mod["rna"].copy()
    rna = rna[:, variable(rna, 2_000)].copy()
    shown = rna[rna.obs["shown"].to_numpy(bool)].copy()
    tools.model.SCVI.setup_anndata(shown, batch_key="batch")
    model = tools.model.SCVI(shown)
    model.train(max_epochs=args.epochs, early_stopping=not args.patient, **on_cpu(args))
    return {"cells": rna.obs_names.to_numpy(str), "embedding": model.get_latent_representation(rna)}, ran(model)


def harmony(mod, args):
    """Components of all cells, corrected together."""
    import harmonypy
    import scanpy as sc

    rna = mod["rna"].copy()
    rna = rna[:, variable(rna, 2_000)].copy()
    sc.pp.normalize_total(rna, target_sum=1e4)
    sc.pp.log1p(rna)
    sc.pp.scale(rna, max_value=10)
    sc.pp.pca(rna, 30)
    found = harmonypy.run_harmony(rna.obsm["X_pca"].astype(float), rna.obs, ["batch"], random_state=args.seed).Z_corr
    embedding = np.asarray(found) if len(found) == rna.n_obs else np.asarray(found).T
    return {"cells": rna.obs_names.to_numpy(str), "embedding": embedding}, 0


def scglue(mod, args):
    """Embeddings of both modalities' cells, by a guidance graph and no pairs."""
    import networkx as nx
    import scanpy as sc
    import scglue

    other_name = next(name for name in mod if name != "rna")
    rna, other = mod["rna"].copy(), mod[other_name].copy()
    rna = rna[:, variable(rna, 2_000)].copy()
    rna.layers["counts"] = rna.X.copy()
    edges = peak_edges(rna.var, other.var) if other_name == "atac" else protein_edges(rna.var, other.var)
    if other_name == "atac":
        other = other[:, np.unique([column for _, column in edges])].copy()
        edges = peak_edges(rna.var, other.var)
    other.var_names = [f"{other_name}:{name}" for name in other.var_names]
    graph = nx.MultiDiGraph()
    for name in (*rna.var_names, *other.var_names):
        graph.add_edge(name, name, weight=1.0, sign=1, type="loop")
    for gene, column in edges:
        ends = rna.var_names[gene], other.var_names[column]
        graph.add_edge(*ends, weight=1.0, sign=1, type="fwd")
        graph.add_edge(*ends[::-1], weight=1.0, sign=1, type="rev")
    for adata in (rna, other):
        adata.var["highly_variable"] = True
    sc.pp.normalize_total(rna)
    sc.pp.log1p(rna)
    sc.pp.scale(rna)
    sc.tl.pca(rna, n_comps=min(100, rna.n_vars - 1, rna.n_obs - 1), svd_solver="auto", random_state=args.seed)
    scglue.models.configure_dataset(rna, "NB", use_highly_variable=True, use_layer="counts", use_rep="X_pca")
    if other_name == "atac":
        scglue.data.lsi(other, n_components=min(100, other.n_vars - 1), n_iter=15, random_state=args.seed)
        scglue.models.configure_dataset(other, "NB", use_highly_variable=True, use_rep="X_lsi")
    else:
        scglue.models.configure_dataset(other, "NB", use_highly_variable=True)
    sets = {"rna": rna, other_name: other}
    epochs = args.epochs or (affordable_epochs(sets, graph, args) if args.seconds else None)
    # Its automatic burn-in, during which nothing is aligned, is a hundred epochs or more: longer than a limited run.
    fit = {"max_epochs": epochs, "align_burnin": epochs // 3} if epochs else {}
    for skip_balance in (False, True):
        options = {"init_kws": {"random_seed": args.seed}, "fit_kws": fit, "skip_balance": skip_balance}
        try:
            model = scglue.models.fit_SCGLUE(sets, graph, **options)
            found = {name: model.encode_data(name, adata) for name, adata in sets.items()}
            break
        except ValueError:  # no cluster of one matches any of the other: weights of cells are NaN, and all else is
            if skip_balance:
                raise
            for adata in sets.values():
                adata.uns["__scglue__"].pop("use_dsc_weight", None)
    found["balanced"] = not skip_balance
    return found | {"edges": len(edges), "features": np.array([rna.n_vars, other.n_vars])}, epochs or -1


def affordable_epochs(sets, graph, args):
    """Epochs of each of scglue's two stages that `--seconds` allow, by those that a model of three epochs takes."""
    import scglue

    model = scglue.models.SCGLUEModel(sets, sorted(graph.nodes), random_seed=args.seed)
    model.compile()
    began = time.perf_counter()
    model.fit(sets, graph, max_epochs=3, align_burnin=1)
    return max(int(args.seconds / 2 / ((time.perf_counter() - began) / 3)), 6)


def variable(adata, count: int) -> np.ndarray:
    """Columns of the most variable genes, by scanpy's seurat_v3 over raw counts; all that are seen where no more are."""
    import scanpy as sc

    seen = np.flatnonzero(adata.X.getnnz(axis=0) > 0)
    if len(seen) <= count:
        return seen
    table = sc.pp.highly_variable_genes(adata[:, seen].copy(), flavor="seurat_v3", n_top_genes=count, inplace=False)
    return seen[table["highly_variable"].to_numpy()]


def spread(adata, cells) -> sp.csr_matrix:
    """The rows of `cells`, empty where they are not measured."""
    row = adata.obs_names.get_indexer(cells)
    has = np.flatnonzero(row >= 0)
    choose = sp.csr_matrix((np.ones(len(has), np.float32), (has, row[has])), (len(cells), adata.n_obs))
    return choose @ adata.X


def peak_edges(genes, peaks) -> list[tuple[int, int]]:
    """(gene, peak) that overlap: the gene's body with `PROMOTER` bp before its start. Places are 0-based, end exclusive."""
    edges = []
    known = genes["chrom"].astype(str).to_numpy()
    forward = (genes["strand"].astype(str) == "+").to_numpy()
    low = genes["start"].to_numpy() - np.where(forward, PROMOTER, 0)
    high = genes["end"].to_numpy() + np.where(forward, 0, PROMOTER)
    chroms = peaks["chrom"].astype(str).to_numpy()
    for chrom in np.unique(chroms):
        columns = np.flatnonzero(chroms == chrom)
        start, end = (peaks[name].to_numpy()[columns] for name in ("start", "end"))
        for gene in np.flatnonzero(known == chrom):
            edges += [(gene, column) for column in columns[(start < high[gene]) & (end > low[gene])]]
    return edges


def protein_edges(genes, proteins) -> list[tuple[int, int]]:
    """(gene, protein) that it encodes."""
    row = {name: number for number, name in enumerate(genes.index)}
    told = enumerate(proteins["genes"].astype(str))
    return [(row[gene], column) for column, some in told for gene in some.split(";") if gene in row]


def on_cpu(args) -> dict:
    """Where and how long scvi-tools train."""
    limit = {} if args.seconds is None else {"max_time": {"seconds": args.seconds}}
    return {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False} | limit


def ran(model) -> int:
    """Epochs that were run before early stopping."""
    return len(next(iter(model.history.values())))


METHODS = {"totalvi": totalvi, "multivi": multivi, "scvi": scvi, "harmony": harmony, "scglue": scglue}

if __name__ == "__main__":
    main()
