"""Training crops: each a function of seed, step and place, cut ahead of the step that needs them."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import numpy as np

from benchmarks.common.errors import UserError
from benchmarks.common.seeds import derive_seed, generator
from benchmarks.contestants import Batch, Target, TrainingRecipe
from benchmarks.data.cache import Cache, CachedMask, CachedVolume, default_cache
from benchmarks.data.dataset import Case
from benchmarks.data.preprocessing import overlap

if TYPE_CHECKING:
    import torch

DEEP = 0.8  # of the depth of a lesion's deepest voxel
AHEAD = 2  # steps whose crops are ready before they are needed

T = TypeVar("T")


@dataclass(frozen=True)
class WorkerPlace:
    """Which worker this is among all of a training."""

    rank: int = 0
    world_size: int = 1


ONLY_WORKER = WorkerPlace()


class CropSource:
    """The crops of one worker.

    A crop is a function of (seed, step, place in the joined batch of all workers): so `w` workers with `b` crops each
    see together the crops that one worker with `w * b` sees, and so does one worker that accumulates gradients.
    Prepared cases lie in the cache on disk and are mapped into memory; a crop touches its own pages only.

    Args:
        worker: whose crops.
        prepared: called after every case that has been prepared; it may take minutes.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        target: Target,
        recipe: TrainingRecipe,
        seed: int,
        *,
        worker: WorkerPlace = ONLY_WORKER,
        cache: Cache | None = None,
        prepared: Callable[[], None] = lambda: None,
    ) -> None:
        self.target, self.recipe, self.seed, self.worker = target, recipe, seed, worker
        cache = cache or default_cache()
        self._cases: list[tuple[CachedVolume, CachedMask]] = []
        self._deep: list[list[np.ndarray]] = []
        for case in cases:
            volume = cache.prepared(case, recipe.preprocessing)
            mask = volume.label_mask(target)
            self._cases.append((volume, mask))
            self._deep.append(deep_places(mask, volume.spacing) if recipe.deep else [])
            prepared()

    def step(self, step: int) -> list[Batch]:
        """The batches of one step, in memory of the CPU: one, or as many as gradients are accumulated over."""
        return [self._batch(step, turn) for turn in range(self.recipe.accumulate)]

    def _batch(self, step: int, turn: int) -> Batch:
        import torch

        size = self.recipe.batch_size
        first = (turn * self.worker.world_size + self.worker.rank) * size
        sources = [self.source_of(step, first + place) for place in range(size)]
        crops = [source.crop(step, first + place) for place, source in enumerate(sources)]
        prompts = torch.Generator(device="cpu")
        prompts.manual_seed(derive_seed(self.seed, "prompts", step, self.worker.rank, *([turn] if turn else [])))
        image = torch.from_numpy(np.stack([image for image, _ in crops])[:, None])
        label = torch.from_numpy(np.stack([label for _, label in crops])[:, None]).to(torch.float32)
        return Batch(image, label, [source.target for source in sources], prompts, 0.0)

    def source_of(self, step: int, place: int) -> CropSource:
        """Where a crop comes from."""
        return self

    def crop(self, step: int, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (float32) and label (bool) of one crop, augmented as the recipe says; see `Augmentation`."""
        random = generator(self.seed, "crop", step, 0, place)
        number = random.integers(len(self._cases))
        volume, mask = self._cases[number]
        patch, shape, foreground = self.recipe.patch, np.array(volume.shape), mask.foreground
        if len(foreground) and random.random() < self.recipe.foreground:
            if self.recipe.deep and random.random() < self.recipe.deep:
                lesions = self._deep[number]
                foreground = lesions[random.integers(len(lesions))]
            centre = foreground[random.integers(len(foreground))].astype(float)
        else:
            half = np.array(patch) / 2
            edge = np.clip(shape - half, 0, half)  # of a scan smaller than the crop, too, both ends are seen
            centre = random.uniform(edge, shape - edge)
        image, origin = volume.crop(centre, patch, self.recipe.fill)
        label, _ = mask.crop(centre, patch)
        how = self.recipe.augmentation
        axes = tuple(axis for axis, chance in enumerate(how.flips) if random.random() < chance)
        scale = 1 + random.uniform(-how.intensity_scale, how.intensity_scale)
        shift = random.uniform(-how.intensity_shift, how.intensity_shift)
        changed = (...,) if self.recipe.fill is None else overlap(volume.shape, patch, origin)[1]
        image[changed] = image[changed] * scale + shift
        image, label = np.flip(image, axes), np.flip(label, axes)
        return np.ascontiguousarray(image, np.float32), np.ascontiguousarray(label)


class JointCrops(CropSource):
    """The crops of several targets, each in its turn: place after place of the joined batch, step after step.

    Raises:
        UserError: the targets ask for crops of different sizes, which no batch can hold.
    """

    def __init__(self, sources: Sequence[CropSource]) -> None:
        first = sources[0]
        self.sources, self.target, self.recipe = sources, first.target, first.recipe
        self.seed, self.worker = first.seed, first.worker
        for one in sources:
            if (one.recipe.patch, one.recipe.batch_size) != (self.recipe.patch, self.recipe.batch_size):
                raise UserError(f"targets '{first.target.name}' and '{one.target.name}' ask for other crops")

    def source_of(self, step: int, place: int) -> CropSource:
        joined = self.recipe.batch_size * self.recipe.accumulate * self.worker.world_size
        return self.sources[(step * joined + place) % len(self.sources)]


def deep_places(mask: CachedMask, spacing: Sequence[float]) -> list[np.ndarray]:
    """Of every lesion (26-connected component) of a mask the voxels (N, 3) at least 0.8 as deep as its deepest.

    Depth is the distance in mm to the nearest voxel outside the lesion. A case without the target has none.
    """
    from scipy import ndimage

    if not mask.voxels:
        return []
    labelled, _ = ndimage.label(mask.box, np.ones((3, 3, 3), bool))
    places = []
    for number, box in enumerate(ndimage.find_objects(labelled), start=1):
        lesion = np.pad(labelled[box] == number, 1)
        depth = ndimage.distance_transform_edt(lesion, spacing)[1:-1, 1:-1, 1:-1]
        corner = [side.start for side in box]
        places.append(np.argwhere(depth >= DEEP * depth.max()) + corner + mask.origin)
    return places


def pinned(batch: Batch) -> Batch:
    """The batch in memory that a GPU can copy from while it computes."""
    return _with_tensors(batch, batch.image.pin_memory(), batch.label.pin_memory(), batch.progress)


def on_device(batch: Batch, device: str, progress: float) -> Batch:
    """The batch on a device, at a share of the budget."""
    image, label = (tensor.to(device, non_blocking=True) for tensor in (batch.image, batch.label))
    return _with_tensors(batch, image, label, progress)


def _with_tensors(batch: Batch, image: torch.Tensor, label: torch.Tensor, progress: float) -> Batch:
    return Batch(image, label, batch.targets, batch.generator, progress)


class _Failure:
    """An error on its way from the thread to whoever takes the next item."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Ahead(Generic[T]):
    """Items made in a thread of their own, in order, a bounded number ahead of the one who takes them.

    An error while an item is made is raised where that item is taken. Use as a context: the thread ends with it.

    Args:
        make: item of a number; called in the thread, for `first`, `first + 1` and so on.
        depth: how many items wait at most.
    """

    def __init__(self, make: Callable[[int], T], first: int, depth: int = AHEAD) -> None:
        self._make, self._first = make, first
        self._items: queue.Queue[T | _Failure] = queue.Queue(depth)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="crops", daemon=True)
        self.seconds_waited = 0.0

    def take(self) -> T:
        """The next item; the time spent waiting for it is added to `seconds_waited`."""
        started = time.perf_counter()
        item = self._items.get()
        self.seconds_waited += time.perf_counter() - started
        if isinstance(item, _Failure):
            raise item.error
        return item

    def _work(self) -> None:
        for number in itertools.count(self._first):
            try:
                item: T | _Failure = self._make(number)
            except Exception as error:  # whatever it is, it belongs to the one who waits
                item = _Failure(error)
            if not self._hand_over(item) or isinstance(item, _Failure):
                return

    def _hand_over(self, item: T | _Failure) -> bool:
        while not self._ended.is_set():
            try:
                self._items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
