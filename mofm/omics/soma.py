"""Where a TileDB-SOMA experiment is, and opening it: a build of the Census, a copy of one, or anybody's experiment.

`tiledbsoma` (`pip install "mofm[census]"`) is imported here alone. Choices and their cost:

- An experiment is given by `census://VERSION/ORGANISM`, a folder, or a URI that TileDB reads (s3://, gs://, azure://). A
  folder or URI of a whole Census is taken where it has one organism; else its census_data/ORGANISM is to be named. The
  Census around an experiment is found by going up, because that is where its datasets are listed.
- What it is, is known by its date, organism and number of cells where it is a build of the Census: a copy on disk is the
  same as the original. Any other folder is known by the names and sizes of its files: TileDB writes every change as files
  of a new, unique name, so nothing need be read. Any other URI is known by itself and its number of cells: that somebody
  rewrote it in place would not be noticed.
- TileDB's buffers are 64 MiB a column rather than 1 GiB: a block of cells fits, and memory stays small.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from mofm.errors import InputError, nearest_name
from mofm.omics.census import INSTALL, SCHEME, find_release, parse_url

BUFFER_BYTES = 64 * 2**20
_ORGANISMS = {"human": "homo_sapiens", "mouse": "mus_musculus"}


@dataclasses.dataclass(frozen=True)
class SomaPlace:
    """An experiment that can be opened.

    Attributes:
      given: as the user gave it.
      experiment: its URI.
      census: URI of the Census that it belongs to; None for one by itself.
      build: the date of that Census; None where there is none or it does not say.
      region: of the bucket; None asks the environment.
      is_public: read without signing, as the public bucket of the Census is.
      identity: what it is, wherever it lies (see above).
    """

    given: str
    experiment: str
    census: str | None = None
    build: str | None = None
    region: str | None = None
    is_public: bool = False
    identity: str = ""

    @property
    def source(self) -> str:
        """What a manifest calls it: the dated URL of a release, the name of a folder, or the URI."""
        organism = self.experiment.rstrip("/").rsplit("/", 1)[-1]
        if self.given.startswith(SCHEME):
            return f"{SCHEME}{self.build}/{organism}"
        return self.given if "://" in self.given else Path(self.given).absolute().name

    def is_changed(self) -> bool:
        """Whether the folder was written to since; not known of what lies elsewhere, or of a build of the Census."""
        return self.identity.startswith("files ") and _listing(Path(self.experiment)) != self.identity


def is_tiledb_folder(path: Path) -> bool:
    """Whether a folder is a group or an array of TileDB, by the names of what is in it."""
    return (path / "__tiledb_group.tdb").exists() or (path / "__group").is_dir() or (path / "__schema").is_dir()


def find_soma(given: str | Path) -> SomaPlace:
    """The experiment that a folder or URL means.

    Raises:
      InputError: nothing is there, it is no experiment, the organism is not there or must be named, or tiledbsoma is not
        installed.
    """
    library = load_library(given)
    place = SomaPlace(str(given), str(given.absolute()) if isinstance(given, Path) else given.rstrip("/"))
    if isinstance(given, str) and given.startswith(SCHEME):
        version, organism = parse_url(given)
        release = find_release(version)
        place = dataclasses.replace(place, census=release.uri, region=release.region, is_public=True)
        place = _in_census(place, _ORGANISMS.get(organism, organism))
    else:
        with opened(place, place.experiment) as found:
            if not isinstance(found, library.Experiment) and "census_data" not in _keys(found):
                raise InputError(
                    f"{given}: a {type(found).__name__} of TileDB-SOMA, not an experiment; give the folder of an "
                    "experiment, or of a Census"
                )
            is_census = not isinstance(found, library.Experiment)
        if is_census:
            place = _in_census(dataclasses.replace(place, census=place.experiment), None)
        else:
            place = dataclasses.replace(place, census=_census_around(place))
    return _identified(place)


@contextmanager
def opened(place: SomaPlace, uri: str, *keys: str) -> Iterator:
    """The object at `uri`, or at the end of `keys` below it, open for reading; what TileDB raises becomes a line.

    Raises:
      InputError: it is not there or cannot be read.
    """
    library = load_library(place.given)
    config = {"soma.init_buffer_bytes": BUFFER_BYTES}
    region = place.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        config["vfs.s3.region"] = region
    if place.is_public:
        config["vfs.s3.no_sign_request"] = "true"
    try:
        with library.open(uri, context=library.SOMATileDBContext(tiledb_config=config)) as found:
            for key in keys:
                if key not in found:
                    raise InputError(f"{place.given}: has no {'/'.join(keys)}; is it whole? fetch or write it again")
                found = found[key]
            yield found
    except library.DoesNotExistError as error:
        raise InputError(f"{place.given}: no TileDB-SOMA there; check the path") from error
    except (library.SOMAError, RuntimeError, OSError) as error:  # TileDB reports a bucket's faults by a RuntimeError
        raise InputError(
            f"{place.given}: TileDB cannot read it ({first_line(error)}); fetch or write it again"
        ) from error


def load_library(given: str | Path) -> ModuleType:
    """tiledbsoma. Raises `InputError` where it is not installed."""
    try:
        import tiledbsoma
    except ImportError as error:
        raise InputError(f"{given}: is read by tiledbsoma, which is not installed: {INSTALL}") from error
    return tiledbsoma


def first_line(error: Exception) -> str:
    """What an error of TileDB says, without its class and its stack."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].removeprefix("SOMAError: ").strip("'")[:200]


def _keys(found) -> list[str]:
    return sorted(found) if isinstance(found, Mapping) else []


def _in_census(place: SomaPlace, organism: str | None) -> SomaPlace:
    """The experiment of an organism in the Census of `place`; None for the only one."""
    with opened(place, place.census, "census_data") as data:
        organisms = _keys(data)
        organism = organisms[0] if organism is None and len(organisms) == 1 else organism
        if organism not in organisms:
            example = f"{place.given.rstrip('/')}/census_data/{organisms[0] if organisms else 'ORGANISM'}"
            asked = f"no organism {organism!r} there" if organism else "a Census of several organisms"
            hint = nearest_name(organism or "", organisms) if organism else f" Name one, as in {example}"
            raise InputError(f"{place.given}: {asked}; it has {', '.join(organisms) or 'none'}.{hint}")
        return dataclasses.replace(place, experiment=data[organism].uri.removeprefix("file://"))


def _census_around(place: SomaPlace) -> str | None:
    """The Census two levels up, where the experiment is in the census_data of one."""
    parent, _, _ = place.experiment.rpartition("/")
    root, _, name = parent.rpartition("/")
    if name != "census_data":
        return None
    try:
        with opened(place, root) as found:
            return root if "census_info" in _keys(found) else None
    except InputError:
        return None


def _identified(place: SomaPlace) -> SomaPlace:
    """The place, with what it is."""
    library = load_library(place.given)
    with opened(place, place.experiment) as experiment:
        if not isinstance(experiment, library.Experiment) or not {"obs", "ms"} <= set(_keys(experiment)):
            raise InputError(f"{place.given}: not a SOMA experiment (it has no obs and ms); give the folder of one")
        cells = experiment.obs.count
    build = None
    if place.census is not None:
        with opened(place, place.census, "census_info") as info:
            if "summary" in _keys(info):
                summary = info["summary"].read().concat().to_pandas()
                build = dict(zip(summary["label"], summary["value"], strict=True)).get("census_build_date")
    if build is not None:
        organism = place.experiment.rstrip("/").rsplit("/", 1)[-1]
        return dataclasses.replace(place, build=str(build), identity=f"census {build} {organism} {cells}")
    if "://" in place.experiment:
        return dataclasses.replace(place, identity=f"uri {place.experiment} {cells}")
    return dataclasses.replace(place, identity=_listing(Path(place.experiment)))


def _listing(folder: Path) -> str:
    """The names and sizes of all files below a folder, digested."""
    files = sorted((str(file.relative_to(folder)), file.stat().st_size) for file in folder.rglob("*") if file.is_file())
    return f"files {hashlib.blake2b(repr(files).encode(), digest_size=32).hexdigest()}"
