"""One small simulation, varied: the same cells for every test that asks for the same config."""

import dataclasses
import functools

import anndata
import pytest

from mofm.omics.simulate import AdtConfig, AtacConfig, MultiomicsConfig, SimulationConfig, simulate, simulate_multiomics


@pytest.fixture(scope="session")
def small() -> SimulationConfig:
    """Two lineages of two types: the smallest network with both kinds of switches."""
    return SimulationConfig(cells=400, genes=200, tfs=20, cell_types=4, types_per_lineage=2)


@pytest.fixture(scope="session")
def varied(small):
    """A function (changes to the small config) -> its simulation. Leave it as it is: the next test gets it too."""
    simulated = functools.cache(simulate)

    def vary(**changes) -> anndata.AnnData:
        return simulated(dataclasses.replace(small, **changes))

    return vary


@pytest.fixture(scope="session")
def multiomics_config(small) -> MultiomicsConfig:
    """The small config with two donors and a path, in all four omics."""
    cells = dataclasses.replace(small, donors=2, path_types=3, batch_effect=0.1)
    return MultiomicsConfig(cells, AtacConfig(background_peaks=100), AdtConfig(antibodies=20))


@pytest.fixture(scope="session")
def multiomics(multiomics_config) -> dict[str, anndata.AnnData]:
    """The four omics of `multiomics_config`. Leave them as they are."""
    return simulate_multiomics(multiomics_config)
