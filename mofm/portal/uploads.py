"""Uploads streamed to disk: a megabyte of memory, a temporary name, and a limit, whatever is sent.

Starlette's own form parser spools files to the system's temporary folder and knows their size when it is too late; this one
writes where the file will stay, and stops at the first byte too many. A form's token must come before its file: nothing is
written for who may not write. What the disk refuses is reported, and what was written is removed.
"""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from mofm.portal.settings import GB, Settings, new_id
from mofm.portal.wording import shown_name

BLOCK = 2**20
MOST_FIELD = 4096
SPARE_BYTES = GB // 4
"""What an upload leaves free on the disk, for the store and the results of jobs."""


class UploadError(Exception):
    """An upload that is not taken: an HTTP status and a line for its user."""

    def __init__(self, status: int, said: str):
        super().__init__(said)
        self.status = status


@dataclass(frozen=True)
class Upload:
    """A file that has arrived.

    Attributes:
      id: of the file to be.
      name: what its user calls it, fit to be shown.
      path: where it lies, in `Settings.incoming`.
    """

    id: str
    name: str
    path: Path
    size: int


async def receive(request: Request, settings: Settings, may_write: Callable[[str], bool]) -> Upload:
    """Take the file of a multipart form, the part "file".

    Args:
      may_write: asked, before the first byte is written, with the form's field "csrf" ("" where it has none).

    Raises:
      UploadError: no file, one too large, no permission, a broken request, or a full disk.
    """
    check_room(settings, int(request.headers.get("content-length") or 0))
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise UploadError(415, "A file is sent as multipart/form-data, in the part “file”.")
    file_id = new_id()
    path = settings.incoming / file_id
    parts = _Parts(path, int(settings.upload_gb * GB), may_write)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
            if parts.waiting >= BLOCK:
                await run_in_threadpool(parts.flush)
        parser.finalize()
        if not parts.has_ended:
            raise UploadError(400, "The upload broke off; send the file again.")
        await run_in_threadpool(parts.close)
        if parts.size == 0:
            raise UploadError(400, "No file was chosen, or it is empty." if parts.has_file else "No file was sent.")
        return Upload(file_id, shown_name(parts.name), path, parts.size)
    except (MultipartParseError, ClientDisconnect) as error:
        parts.discard()
        raise UploadError(400, "The upload broke off; send the file again.") from error
    except OSError as error:
        parts.discard()
        raise disk_error(error) from error
    except BaseException:
        parts.discard()
        raise


def check_room(settings: Settings, size: int) -> None:
    """Raises `UploadError` where a file of this size is not taken, or the disk has no room for it."""
    if size > settings.upload_gb * GB + BLOCK:
        raise UploadError(413, f"The file is larger than the {settings.upload_gb:g} GB that this server takes.")
    if shutil.disk_usage(settings.data_dir).free < size + SPARE_BYTES:
        raise UploadError(507, "The server's disk is full: delete results that are not needed, or ask who keeps it.")


def disk_error(error: OSError) -> UploadError:
    """What the disk refused, for who uploads."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UploadError(507, "The server's disk is full: delete results that are not needed, or ask who keeps it.")
    return UploadError(500, f"The server's disk failed: {error.strerror or error}.")


class _Parts:
    """What the parser calls: fields are kept, the part "file" is written."""

    def __init__(self, path: Path, most: int, may_write: Callable[[str], bool]):
        self._path, self._most, self._may_write = path, most, may_write
        self._file = None
        self._header = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._field = ""
        self._fields: dict[str, bytearray] = {}
        self._blocks: list[bytes] = []
        self.waiting, self.size, self.name = 0, 0, ""
        self.has_file, self.has_ended = False, False

    def callbacks(self) -> dict[str, Callable]:
        """As python-multipart takes them."""
        return {
            "on_part_begin": self._begin, "on_header_begin": self._header_begins, "on_header_field": self._header_field,
            "on_header_value": self._header_value, "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished, "on_part_data": self._data,
            "on_end": self._end,
        }  # fmt: skip

    def _end(self) -> None:
        self.has_ended = True

    def _begin(self) -> None:
        self._headers, self._field = {}, ""

    def _header_begins(self) -> None:
        self._header = (bytearray(), bytearray())

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_end(self) -> None:
        self._headers[bytes(self._header[0]).lower()] = bytes(self._header[1])

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        if self._field != "file" or b"filename" not in options:
            if len(self._fields) < 20:
                self._fields[self._field] = bytearray()
            self._field = f"field {self._field}"
            return
        if self.has_file:
            raise UploadError(400, "One file at a time.")
        if not self._may_write(self._fields.get("csrf", bytearray()).decode("utf-8", "replace")):
            raise UploadError(403, "This page is too old to send a file; open it again.")
        self.has_file, self.name = True, options[b"filename"].decode("utf-8", "replace")
        self._file = self._path.open("wb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field == "file":
            self.size += end - start
            if self.size > self._most:
                raise UploadError(413, f"The file is larger than the {self._most / GB:g} GB that this server takes.")
            self._blocks.append(data[start:end])
            self.waiting += end - start
        elif (field := self._fields.get(self._field.removeprefix("field "))) is not None and len(field) < MOST_FIELD:
            field.extend(data[start:end][:MOST_FIELD])

    def flush(self) -> None:
        """Write what waits."""
        if self._file is not None:
            self._file.write(b"".join(self._blocks))
        self._blocks, self.waiting = [], 0

    def close(self) -> None:
        """Write what waits, to the disk itself: what is said to have arrived has."""
        self.flush()
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def discard(self) -> None:
        """Leave nothing."""
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
