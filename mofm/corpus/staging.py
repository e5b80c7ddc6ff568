"""How a corpus changes: one writer at a time, out of sight, and then all at once.

A writer holds `.lock` and works in a `.staging-` folder of the corpus, on the same disk, so that a finished store comes
into place by a rename. Feature table and manifest are replaced whole, the manifest last: at whatever point a writer is
killed, the corpus reads as it did before. What the killed one left in its staging folder is deleted by the next, which
can be sure that no one works there because it holds the lock. The lock goes with its process, so none is ever stale.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from mofm.corpus.features import features_to_bytes
from mofm.corpus.manifest import FEATURES, GENE_TABLE, MANIFEST, Manifest
from mofm.errors import InputError

LOCK = ".lock"
STAGING = ".staging-"
STORES = "stores"

_MENDABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO, errno.ENOTDIR, errno.ENAMETOOLONG)


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """Holds the corpus at `root` for writing, and gives an empty folder in it to prepare things in.

    The folder goes when the context ends, however it ends; and so does `root` itself where it was new and nothing was
    committed. Failures of the disk are reported as what a person can do about them.

    Raises:
      InputError: another process holds the corpus; `root` is something else; the disk is full or not writable.
    """
    with _disk_errors(root):
        new = [folder for folder in (root, *root.parents) if not folder.exists()]
        lock = None
        try:
            lock = _lock(root)
            _check_is_corpus(root)
            if not (root / MANIFEST).exists():
                (root / GENE_TABLE).unlink(missing_ok=True)  # of an ingest that was killed; this one may have another
            for left in root.glob(f"{STAGING}*"):
                shutil.rmtree(left)
            staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=root))
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        finally:
            if lock is not None and not (root / MANIFEST).exists():
                for name in (FEATURES, GENE_TABLE):
                    (root / name).unlink(missing_ok=True)
                (root / LOCK).unlink()
            for folder in new:
                _remove_empty(folder)
            if lock is not None:
                os.close(lock)


def commit(root: Path, staging: Path, folders: Sequence[Path], manifest: Manifest, features: pd.DataFrame) -> None:
    """Brings finished stores into place, then the feature table, then the manifest that names them all at once.

    Args:
      staging: the folder of `staging_folder`; `folders` are in it and on disk.
      manifest: its last stores are those in `folders`, in this order.
    """
    targets = [root / entry.path for entry in manifest.stores[len(manifest.stores) - len(folders) :]]
    (root / STORES).mkdir(exist_ok=True)
    for target in targets:
        if target.exists():
            # The manifest does not have it: an ingest was killed after its rename.
            shutil.rmtree(target)
    content = manifest.to_json()
    try:
        for folder, target in zip(folders, targets, strict=True):
            os.rename(folder, target)
        _sync_folder(root / STORES)
        replace_file(root / FEATURES, features_to_bytes(features), staging)
        replace_file(root / MANIFEST, content, staging)
    except BaseException:
        in_place = (root / MANIFEST).exists() and (root / MANIFEST).read_bytes() == content
        if not in_place:
            for target in targets:
                shutil.rmtree(target, ignore_errors=True)
            _remove_empty(root / STORES)
        raise


def replace_file(path: Path, content: bytes, staging: Path) -> None:
    """Makes `content` the content of `path`, on disk, so that at no time there is anything but the old or the new."""
    prepared = staging / path.name
    with prepared.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(prepared, path)
    _sync_folder(path.parent)


def _lock(root: Path) -> int:
    """The descriptor of `.lock`, held. Raises `InputError` where another process has it."""
    path = root / LOCK
    while True:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A writer that ended in nothing takes the file with it: then it is not this one that was locked.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(
                f"{root}: another mofm ingest is writing to this corpus; wait for it to end, then run this again"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _check_is_corpus(root: Path) -> None:
    """Raises `InputError` for a folder of other things, so that none is littered by a mistyped path."""
    if (root / MANIFEST).exists():
        return
    strange = [path.name for path in root.iterdir() if path.name not in (LOCK, STORES, FEATURES, GENE_TABLE)]
    strange = sorted(name for name in strange if not name.startswith(STAGING))
    if strange:
        raise InputError(
            f"{root}: the folder holds something else ({', '.join(strange[:3])}) and no corpus; name an empty one"
        )


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = next(folder for folder in (root, *root.parents) if folder.exists())
            free = shutil.disk_usage(place).free
            raise InputError(
                f"{root}: the disk is full ({free / 2**30:.2f} GiB are free there now); nothing of the unfinished file "
                "was kept: free space or name another --out, then run this again and it goes on"
            ) from error
        if error.errno in _MENDABLE or isinstance(error, FileExistsError):
            raise InputError(
                f"{root}: cannot be written ({error.strerror or error}); check the path, its permissions and the disk"
            ) from error
        raise


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
