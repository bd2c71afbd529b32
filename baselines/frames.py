"""How scans are turned for weights that learned from arrays as files store them."""

from __future__ import annotations

from typing import Any

from benchmarks.data.volume import Volume


class StoredOrientation:
    """A segmenter of such weights, with the setting `orientation`: "file" keeps a file's flips, "ras" undoes them."""

    config: dict[str, Any]
    trained_here: bool

    @property
    def orientation(self) -> str:
        """ "file" or "ras": how scans are turned for these weights; the bench's training crops are in RAS."""
        return "ras" if self.trained_here else str(self.config["orientation"])

    def flips(self, volume: Volume) -> tuple[int, ...]:
        """The RAS axes along which these weights see a scan the other way round."""
        return file_flips(volume) if self.orientation == "file" else ()


def file_flips(volume: Volume) -> tuple[int, ...]:
    """The RAS axes that the scan's file stores the other way round."""
    return () if volume.orientation is None else tuple(sorted(int(a) for a, sign in volume.orientation if sign < 0))
