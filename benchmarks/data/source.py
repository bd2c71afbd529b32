"""What is announced of a dataset: one object for everything that the bench does under its name.

Everything that the author of a dataset imports is here; `examples/my_dataset` is a whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.download import RemoteFile
from benchmarks.data.dataset import Dataset, DatasetInfo
from benchmarks.data.layouts.layout import Pair, Splitting, assemble, require_folder, volume_files
from benchmarks.data.splits import StoredSplits
from benchmarks.data.target import Target
from benchmarks.data.volume import write_nifti

__all__ = [
    "DatasetInfo",
    "DatasetSource",
    "FetchList",
    "Pair",
    "Phantoms",
    "RemoteFile",
    "StoredSplits",
    "Target",
    "volume_files",
    "write_nifti",
]


@dataclass(frozen=True)
class FetchList:
    """Where a dataset is publicly hosted.

    Attributes:
        where: in a line.
        files: called with the numbers of the wanted cases, or None for all; raises UserError for what it cannot give.
            An archive (.tar, .tar.gz, .tgz, .zip) is unpacked and dropped.
        licence, url: the terms of what is fetched, where they are not those of the dataset.
    """

    where: str
    files: Callable[[Sequence[int] | None], Sequence[RemoteFile]]
    licence: str = ""
    url: str = ""


@dataclass(frozen=True)
class Phantoms:
    """Synthetic scans in the dataset's own layout; its own reader reads them back.

    Attributes:
        write: called as `write(folder, cases, seed, scale)`: fills an empty folder, everything from the seed alone, and
            returns case id → what was put in (JSON-like). `scale` is voxels per mm relative to the standard.
        version: raised when the same seed gives other files.
        title: of the dataset in the notice that goes with them; by default its own.
        facts: what else their manifest should hold, JSON-like.
    """

    write: Callable[[Path, int, int, float], Mapping[str, Any]]
    version: str = "1"
    title: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSource:
    """A dataset that the bench knows by name, announced under the entry-point group `tags_bench.datasets`.

    Importing it should be cheap: heavy imports belong inside the functions.

    Attributes:
        info: targets, licence, citation, layout.
        pairs: called with the folder of a download; finds image and label of every case, opens none.
            Raises UserError where the layout is not there.
        splits: the folds that belong to it; without them patients are split by the rule of `splits.py`.
        fetch: where it is publicly hosted, if it is.
        phantoms: how to imitate it, for tests and for trying things out.
        recognise: whether a folder that nobody named holds it.
    """

    info: DatasetInfo
    pairs: Callable[[Path], Iterable[Pair]]
    splits: StoredSplits | None = None
    fetch: FetchList | None = None
    phantoms: Phantoms | None = None
    recognise: Callable[[Path], bool] | None = None

    @property
    def name(self) -> str:
        return self.info.name

    def load(self, root: Path, *, splits: str | None = None, seed: int = 0, strict: bool = True) -> Dataset:
        """The dataset from its layout under `root`; arguments and errors as for `assemble`."""
        require_folder(root)
        return assemble(
            self.info,
            root,
            self.pairs(root),
            Splitting(self.splits, splits, seed),
            strict=strict,
            expected=self.info.cases or None,
        )
