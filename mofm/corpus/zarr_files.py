"""Files of a corpus as zarr-python sees them, so that obs and var come the same way and with the same credentials as X."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import tensorstore as ts
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from mofm.corpus.places import PATIENCE_S


class ZarrFiles(Store):
    """A zarr store, to be read only, of the files below a TensorStore key-value store.

    A missing chunk is reported (FileNotFoundError), where zarr would make up zeros. Nothing is listed: a web server cannot,
    and the metadata of a store of a corpus are consolidated.
    """

    supports_writes = supports_deletes = supports_listing = supports_partial_writes = False

    def __init__(self, files: ts.KvStore):
        super().__init__(read_only=True)
        self._files = files

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrFiles) and self._files.spec() == other._files.spec()

    __hash__ = None

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """All of a file, or a range of its bytes; None for metadata that is not there."""
        async with asyncio.timeout(PATIENCE_S):
            read = await self._files.read(key)
        if read.state == "missing":
            if key.endswith("zarr.json"):
                return None
            raise FileNotFoundError(f"{key} is missing")
        return prototype.buffer.from_bytes(read.value[_slice(byte_range)])

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """`get` of several."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether a file is there."""
        async with asyncio.timeout(PATIENCE_S):
            return (await self._files.read(key)).state == "value"

    async def set(self, key: str, value: Buffer) -> None:
        """Refused."""
        raise PermissionError("a corpus is read only here")

    async def delete(self, key: str) -> None:
        """Refused."""
        raise PermissionError("a corpus is read only here")

    async def list(self) -> AsyncIterator[str]:
        """Nothing."""
        for key in ():
            yield key

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Nothing."""
        return self.list()

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Nothing."""
        return self.list()


def _slice(byte_range: ByteRequest | None) -> slice:
    if isinstance(byte_range, RangeByteRequest):
        return slice(byte_range.start, byte_range.end)
    if isinstance(byte_range, OffsetByteRequest):
        return slice(byte_range.offset, None)
    if isinstance(byte_range, SuffixByteRequest):
        return slice(-byte_range.suffix, None)
    return slice(None)
