"""A corpus in a bucket, written to: what `staging.py` is for a folder, where there are no renames and no locks.

Stores are made in a local temporary folder and uploaded; the manifest is replaced last, on condition that it is still
the one that was read (If-Match). So a reader sees the old corpus or the new one; a writer that is killed leaves it as it
was, and run again goes on, past the files that are there already; and of two writers at once one wins, and the other is
asked to run again. What makes that hold:

- Rows of the feature table are given out by appending to features.parquet, each time on condition that it is the one
  that was read. It is never shortened, so the rows that any manifest counts stay what they were. Those of a writer that
  was killed stay, too: run again, it takes the very same.
- Every file of a store is put only where there is none (If-None-Match). One that is there must have the same bytes, as it
  does where the same input was uploaded before; anything else is an error.

The cost: the temporary folder (TMPDIR) holds the stores of an input or a few; a file that is there already is read to be
compared. The server must honour conditions on writes: Amazon's, Google's and MinIO do, some that speak S3 do not.
"""

import errno
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from mofm.corpus.features import add_features, empty_features, features_from_bytes, features_to_bytes
from mofm.corpus.manifest import FEATURES, MANIFEST, Manifest
from mofm.corpus.places import PATIENCE_S, cause_of, join, open_files, unreachable
from mofm.errors import InputError

_AT_ONCE = 16
"""Files on their way up, each in memory: at most 128 MB."""
_TRIES = 20
"""Times that rows of the feature table are asked for, where other writers come first."""


class Bucket:
    """A corpus at a URL, for one writer of several.

    Attributes:
      manifest: of the corpus when it was opened, and as it is after each `commit`; None where there is none.

    Raises:
      InputError: it cannot be written to, or is of a format whose feature table would have to be rewritten.
    """

    def __init__(self, url: str):
        if not url.startswith(("s3://", "gs://")):
            raise InputError(
                f"{url}: cannot be written to; a corpus is made in a local folder, or at s3:// or gs://: name one, and "
                "copy it when done"
            )
        self.url = url.rstrip("/")
        try:
            self._files = open_files(self.url)
        except Exception as error:
            raise self._failed("the bucket", error) from error
        content, self._version = self._read(MANIFEST)
        self.manifest = None if content is None else Manifest.from_json(content, join(url, MANIFEST))
        if self.manifest is not None and self.manifest.format_version < 3:
            raise InputError(f"{url}: of corpus format {self.manifest.format_version}; add to it in a local folder")

    @contextmanager
    def staging_folder(self) -> Iterator[Path]:
        """An empty local folder, which goes when the context ends. Raises `InputError` where its disk is full."""
        staging = Path(tempfile.mkdtemp(prefix="mofm-ingest-"))
        try:
            yield staging
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"{staging.parent}: the disk is full; name another folder in TMPDIR, and run this again"
            ) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def put(self, name: str, content: bytes) -> None:
        """A file that is there once and for all. Raises `InputError` where another is there."""
        self._finish(name, content, self._files.write(name, content, if_equal=self._nothing))

    def give_rows(self, vars_: Sequence[tuple[pd.DataFrame, str]]) -> tuple[list, int]:
        """The rows of the features of some stores in the feature table, which grows by those that it does not have.

        Args:
          vars_: for each store its var (index: identities; symbol) and its modality.

        Returns:
          int32 rows for each store, and the length of the table.
        """
        for _ in range(_TRIES):
            content, version = self._read(FEATURES)
            where = join(self.url, FEATURES)
            features = before = empty_features() if content is None else features_from_bytes(content, None, where)
            if self.manifest is None and len(before):
                self._check_begun_alike(before, vars_)
            rows_S = []
            for var, modality in vars_:
                features, rows = add_features(features, var.index.tolist(), var["symbol"].tolist(), modality)
                rows_S.append(rows)
            if len(features) == len(before) or self._replace(FEATURES, features_to_bytes(features), version):
                return rows_S, len(features)
        raise self._lost()

    def _check_begun_alike(self, before: pd.DataFrame, vars_: Sequence[tuple[pd.DataFrame, str]]) -> None:
        """Of a corpus that is not one yet only the very same ingest goes on: nothing names its species."""
        ids = [name for var, _ in vars_ for name in var.index.tolist()]
        if not set(before["id"]) & set(ids):
            raise InputError(
                f"{self.url}: {FEATURES} of another ingest is there, and no corpus; wait for it to end, or delete that file"
            )

    def commit(self, folders: Sequence[Path], manifest: Manifest) -> None:
        """Uploads finished stores, then replaces the manifest.

        Args:
          folders: the stores, which are the last of `manifest`, in this order.

        Raises:
          InputError: another writer was there meanwhile; or the bucket cannot be written.
        """
        under_way: deque = deque()
        for folder, entry in zip(folders, manifest.stores[len(manifest.stores) - len(folders) :], strict=True):
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                if len(under_way) == _AT_ONCE:
                    self._finish(*under_way.popleft())
                name, content = join(entry.path, *path.relative_to(folder).parts), path.read_bytes()
                under_way.append((name, content, self._files.write(name, content, if_equal=self._nothing)))
        for one in under_way:
            self._finish(*one)
        if (version := self._replace(MANIFEST, manifest.to_json(), self._version)) is None:
            raise self._lost()
        self.manifest, self._version = manifest, version

    def _finish(self, name: str, content: bytes, write) -> None:
        try:
            is_put = bool(write.result(PATIENCE_S).generation)
        except Exception as error:
            raise self._failed(name, error) from error
        if not is_put and self._read(name)[0] != content:
            raise InputError(
                f"{self.url}: {name} is there already, and is another: of an ingest that is at work, or of one of another "
                "file that was killed; wait for the one, delete what the other left, or give --names"
            )

    def _replace(self, name: str, content: bytes, version: bytes) -> bytes | None:
        """The new version of a file that was still of that version, and is replaced; None where it was not."""
        try:
            done = self._files.write(name, content, if_equal=version).result(PATIENCE_S).generation
        except Exception as error:
            raise self._failed(name, error) from error
        if done:
            return done
        there, version = self._read(name)  # a write whose answer was lost is sent again, and then finds itself
        return version if there == content else None

    def _read(self, name: str) -> tuple[bytes | None, bytes]:
        try:
            read = self._files.read(name).result(PATIENCE_S)
        except Exception as error:
            raise self._failed(name, error) from error
        if read.state == "missing":
            self._nothing = read.stamp.generation
            return None, read.stamp.generation
        return read.value, read.stamp.generation

    _nothing = b"\x02"
    """The version of a file that is not there."""

    def _failed(self, name: str, error: Exception) -> InputError:
        return unreachable(self.url, name, error) or InputError(
            f"{self.url}: {name} cannot be read or written ({cause_of(error)}); check the bucket and what you may do there"
        )

    def _lost(self) -> InputError:
        return InputError(
            f"{self.url}: another mofm ingest wrote to this corpus meanwhile; nothing is lost: run this again and it goes on"
        )
