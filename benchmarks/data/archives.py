"""Unpacking what came over the network: nothing outside of the folder, no links, no bombs, whole or not at all."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from benchmarks.common.errors import UserError

MAX_FILES = 200_000
MAX_EXPANSION = 20  # times the archive's size; scans compress by two to four, label maps by a hundred
MIN_ALLOWED_BYTES = 1 << 30  # a small archive of label maps may expand by more
BLOCK = 1 << 20
MAX_TAIL_BLOCKS = 64
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a way of compression that zipfile does not know
    RuntimeError,  # encrypted
    ValueError,  # a name that no file can have
)


def extract(
    archive: Path, destination: Path, limit_bytes: int | None = None, progress: Callable[[int], Any] | None = None
) -> Path:
    """Unpack a tar (also compressed) or zip archive into the new folder `destination`.

    Links, devices, absolute paths and `..` are refused, and so is an archive that would take more than
    `limit_bytes` (20 times its own size, at least 1 GiB) or than the disk has. Hidden files are left out.

    Args:
        progress: called with the bytes of every file written.

    Raises:
        UserError: refused, damaged, or `destination` exists.
    """
    if destination.exists():
        raise UserError(f"{destination}: exists already")
    limit = limit_bytes or max(MAX_EXPANSION * archive.stat().st_size, MIN_ALLOWED_BYTES)
    destination.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(destination.parent).free
    partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    total = files = 0
    try:
        for name, size, stream in _members(archive):
            total, files = total + size, files + 1
            if total > limit or files > MAX_FILES:
                raise UserError(f"{archive}: expands to more than {limit:,} bytes or {MAX_FILES:,} files; refused")
            if total > free:
                raise UserError(f"{destination.parent}: {free:,} bytes are free, {archive.name} needs more")
            _write(stream, partial / name, size, archive)
            if progress is not None:
                progress(size)
        partial.chmod(0o755)  # mkdtemp makes it private
        os.rename(partial, destination)
    except DAMAGED as error:
        raise UserError(f"{archive}: damaged ({' '.join(str(error).split())})") from error
    except OSError as error:
        raise UserError(f"{archive}: cannot be unpacked to {destination} ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already if it was moved
    return destination


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, int, IO[bytes]]]:
    """Safe relative path, announced size and content of every regular file."""
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive)


def _tar_members(archive: Path) -> Iterator[tuple[PurePosixPath, int, IO[bytes]]]:
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg():
                raise UserError(f"{archive}: '{member.name}' is a link or a device; refused")
            name = _safe(member.name, archive)
            stream = tar.extractfile(member)
            if stream is not None and not name.name.startswith("."):
                yield name, member.size, stream
        for _ in range(MAX_TAIL_BLOCKS):  # to the checksum of the compressed stream, behind the end of the archive
            if tar.fileobj is None or not tar.fileobj.read(BLOCK):
                return
        raise UserError(f"{archive}: goes on for more than {MAX_TAIL_BLOCKS} MB after its end; refused")


def _zip_members(archive: Path) -> Iterator[tuple[PurePosixPath, int, IO[bytes]]]:
    with zipfile.ZipFile(archive) as bundle:
        for entry in bundle.infolist():
            if entry.is_dir():
                continue
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise UserError(f"{archive}: '{entry.filename}' is a link or a device; refused")
            name = _safe(entry.filename, archive)
            if not name.name.startswith("."):
                with bundle.open(entry) as stream:
                    yield name, entry.file_size, stream


def _safe(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise UserError(f"{archive}: '{name}' leads out of the folder; refused")
    return path


def _write(stream: IO[bytes], path: Path, size: int, archive: Path) -> None:
    """Copy at most the announced size, into a file that is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = size
    with path.open("xb") as target:
        while left and (block := stream.read(min(BLOCK, left))):
            target.write(block)
            left -= len(block)
    if left:
        raise UserError(f"{archive}: damaged ('{path.name}' ends {left:,} bytes early)")
