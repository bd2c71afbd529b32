"""A place for the states and checkpoints of trainings that is not the output folder: a folder, or an object store.

Whatever pyarrow has a file system for will do: `/shared/states`, `file:///…`, `s3://bucket/path`, `gs://…`, `abfs://…`,
and `fsspec+PROTOCOL://…`. Below it every training has a folder named like its checkpoint, so by its digest:

    state.json, state-DIGEST.pt         the state that a training which was cut off goes on from
    best-DIGEST.tar                     the checkpoint of its best validation up to now
    checkpoint-DIGEST.tar               the finished training; its .json beside it is written last

A file is first written whole under the name of its digest, and then a small file points to it. So there is a whole one
at every moment on stores that know no renaming, too, and what is read back is known to be what was written.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.common.errors import MachineFault, UserError, one_line
from benchmarks.common.paths import user_path

STATE, BEST, CHECKPOINT = "state", "best", "checkpoint"
PAUSES = (1.0, 5.0)  # seconds before a call that failed is tried again

Given = TypeVar("Given")


def check_storage(place: str) -> str:
    """The place as it is kept; a path is made absolute, since the nodes of a cluster have other working folders.

    Raises:
        UserError: pyarrow has no file system for it.
    """
    if not place:
        return ""
    if "://" not in place:
        return str(user_path(place).absolute())
    from pyarrow.fs import FileSystem

    try:
        FileSystem.from_uri(place)
    except Exception as error:  # ArrowInvalid, or whatever a library of the store raises
        raise UserError(f"storage '{place}': {one_line(error, 200)}") from error
    return place


@dataclass(frozen=True)
class TrainingStorage:
    """The files of one training.

    Args:
        place: of all trainings, as `check_storage` gave it.
        name: of this one.
        filesystem: of pyarrow, in which `place` is a path; by default the one that the place names.

    Every method raises MachineFault where the store fails again and again: that is not the method's doing.
    """

    place: str
    name: str
    filesystem: Any = None

    def write(self, kind: str, content: bytes, suffix: str) -> None:
        """Put the content in the place of what the kind has."""
        digest = hashlib.sha256(content).hexdigest()
        file = f"{kind}-{digest[:16]}{suffix}"
        before = self._pointer(kind)
        self._tried(lambda: self._put(file, content))
        pointer = json.dumps({"file": file, "sha256": digest, "bytes": len(content)}).encode()
        self._tried(lambda: self._put(f"{kind}.json", pointer))
        if before is not None and before["file"] != file:
            self._tried(lambda: self._delete(before["file"]))

    def read(self, kind: str) -> bytes | None:
        """What was written last; None if nothing was, or it is damaged."""
        pointer = self._pointer(kind)
        content = self._tried(lambda: self._get(str(pointer["file"]))) if pointer is not None else None
        if pointer is None or content is None or hashlib.sha256(content).hexdigest() != pointer["sha256"]:
            return None
        return content

    def holds(self, kind: str) -> bool:
        """Whether something was written; that it is not damaged only `read` finds out."""
        return self._pointer(kind) is not None

    def remove(self, kind: str) -> None:
        """Forget what the kind has."""
        pointer = self._pointer(kind)
        if pointer is not None:
            self._tried(lambda: self._delete(f"{kind}.json"))
            self._tried(lambda: self._delete(str(pointer["file"])))

    def write_folder(self, kind: str, folder: Path, without: Collection[str] = ()) -> None:
        """The files of a folder, in one, but for these names."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path in sorted(path for path in folder.rglob("*") if path.name not in without):
                archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
        self.write(kind, packed.getvalue(), ".tar")

    def read_folder(self, kind: str, folder: Path) -> bool:
        """Whether there was one; its files are then in `folder`, which is made."""
        content = self.read(kind)
        if content is None:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")
        return True

    def read_from_folder(self, kind: str, name: str) -> bytes | None:
        """One file of such a folder; None if there is no folder, or no such file in it."""
        content = self.read(kind)
        if content is None:
            return None
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            file = archive.extractfile(name) if name in archive.getnames() else None
            return None if file is None else file.read()

    def _pointer(self, kind: str) -> dict[str, Any] | None:
        content = self._tried(lambda: self._get(f"{kind}.json"))
        try:
            found = json.loads(content or b"null")
            return {"file": str(found["file"]), "sha256": str(found["sha256"])} if found else None
        except (ValueError, KeyError, TypeError):
            return None  # cut off: as if there were none

    @cached_property
    def _fs(self) -> tuple[Any, str]:
        from pyarrow.fs import FileSystem

        if self.filesystem is not None:
            return self.filesystem, f"{self.place}/{self.name}"
        filesystem, path = FileSystem.from_uri(self.place)
        return filesystem, f"{path.rstrip('/')}/{self.name}"

    def _put(self, file: str, content: bytes) -> None:
        """Whole, or as before: a local file by renaming, an object by the store itself."""
        from pyarrow.fs import LocalFileSystem

        filesystem, folder = self._fs
        filesystem.create_dir(folder, recursive=True)
        path = f"{folder}/{file}"
        local = isinstance(getattr(filesystem, "base_fs", filesystem), LocalFileSystem)
        written = f"{path}.new" if local else path
        with filesystem.open_output_stream(written) as stream:
            stream.write(content)
        if local:
            filesystem.move(written, path)

    def _get(self, file: str) -> bytes | None:
        filesystem, folder = self._fs
        try:
            with filesystem.open_input_stream(f"{folder}/{file}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def _delete(self, file: str) -> None:
        filesystem, folder = self._fs
        with suppress(FileNotFoundError):
            filesystem.delete_file(f"{folder}/{file}")

    def _tried(self, call: Callable[[], Given]) -> Given:
        for pause in (*PAUSES, None):
            try:
                return call()
            except Exception as error:  # whatever pyarrow and a library of the store raise
                if pause is None:
                    raise MachineFault(f"storage {self.place}: {one_line(error, 300)}") from error
                time.sleep(pause)
        raise AssertionError
