"""TAGS on one volume: the views follow the prompts, and the rounds of a dialogue are replayed or remembered."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.contestants import Session, Target
from benchmarks.contestants.precision import finite
from benchmarks.data.boxes import bounding_box
from benchmarks.data.preprocessing import Prepared, Preprocessing, prepare
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Click, Prompts
from tags.augment import flipped, flipped_features
from tags.config import Settings, TagsConfig
from tags.grid_prompts import GridPrompts
from tags.model import TAGS, Encoding
from tags.prompt_encoder import PromptTensors, inscribed
from tags.search import parts_found, views_over
from tags.targets import anatomy_of, anatomy_of_text, bounds_of, flips_of
from tags.views import Answer, View, across, sampled

WIDER = 1.5  # each view that follows a touched face has so many times the field of view
NARROWER = 1 / 2.25  # and each that follows a lesion too small to be seen well
LEAST_ACROSS = 5  # voxels, of the box round it, that a lesion has to measure in a view
REMEMBERED = 4  # answers of earlier rounds kept
LEFT_AND_RIGHT = [[0]]  # the axes that a mirror turns round, in each crop of a batch of one


class Trained(Protocol):
    """What a session needs of a segmenter: the network on its device, and how it is used."""

    module: TAGS
    config: TagsConfig
    settings: Settings
    device: torch.device

    def preprocessing(self, target: Target) -> Preprocessing: ...

    def autocast(self) -> AbstractContextManager[Any]: ...


class Before(Protocol):
    """The answer of the round before, or what stands for one."""

    def seen_from(self, view: View) -> FloatArray: ...


class TagsSession(Session):
    """One volume on the model's grid, with the encodings of the views seen so far.

    A mask follows from the prompts alone, not from what was asked before: the rounds of a dialogue are the clicks in
    their order, each round sees the answer of the one before, and a session that does not remember that answer works
    it out anew.
    """

    def __init__(self, segmenter: Trained, volume: Volume, target: Target) -> None:
        self.segmenter, self.volume, self.target = segmenter, volume, target
        self.recipe = segmenter.preprocessing(target)
        self.prepared: Prepared = prepare(volume, self.recipe)
        self.side = segmenter.config.patch
        self.fill = float(self.prepared.array.min())
        self.finest = min(min(volume.spacing) / max(self.prepared.spacing), 1.0)
        self.anatomy = anatomy_of(target)
        settings = segmenter.settings
        self.mirrors = (False, True) if settings.mirror and (settings.flips or flips_of(target))[0] > 0 else (False,)
        self._encodings: OrderedDict[tuple[View, bool], Encoding] = OrderedDict()
        self._answers: OrderedDict[Prompts, Answer] = OrderedDict()

    def segment(self, prompts: Prompts) -> BoolArray:
        """The mask on the volume's own grid."""
        with torch.inference_mode(), self.segmenter.autocast():
            self.segmenter.module.eval()
            self._read(prompts.text)
            prompted = GridPrompts(prompts, self.prepared)
            if not prompted.first_views(self.side, self.finest):
                return self._searched(prompts, prompted)
            if prompts.mask is not None:
                return self._edited(prompts.mask, prompted)
            return self._on_volume(self._with_box(self._answer(prompts), prompted))

    def _read(self, text: str | None) -> None:
        """Take the anatomy from the words of the prompts, or from the target where they have none."""
        anatomy = anatomy_of(self.target) if text is None else anatomy_of_text(text, self.target)
        if anatomy != self.anatomy:
            self._encodings.clear()
        self.anatomy = anatomy

    def _on_volume(self, answer: Answer) -> BoolArray:
        mask = np.zeros(self.volume.shape, np.bool_)
        box, probability, looked = answer.on_volume(self.prepared)
        np.greater(probability, self.segmenter.settings.threshold, out=mask[box])
        mask[box] &= looked
        return mask

    # A dialogue

    def _answer(self, prompts: Prompts) -> Answer:
        """The answer to a box and clicks, in rounds: the box, then click by click from the first positive one on."""
        rounds = _rounds(prompts)
        known = next((place for place in reversed(range(len(rounds))) if rounds[place] in self._answers), None)
        answer = None if known is None else self._answers[rounds[known]]
        if known is not None:
            self._answers.move_to_end(rounds[known])
        for round_prompts in rounds if known is None else rounds[known + 1 :]:
            prompted = GridPrompts(round_prompts, self.prepared)
            before = _Inscribed(prompted.box) if answer is None and prompted.box is not None else answer
            answer = self._follow(prompted, before)
            self._answers[round_prompts] = answer
            self._answers.move_to_end(round_prompts)
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        if answer is None:
            raise RuntimeError("prompts that ask for no view came here")
        return answer

    def _with_box(self, answer: Answer, prompted: GridPrompts) -> Answer:
        """The mean of an answer and of the ellipsoid in the box, as long as no positive click lies outside the box.

        Neutral at the threshold: where the ellipsoid is undecided, the network decides, and the other way round.
        """
        share, threshold = self.segmenter.settings.box_prior, self.segmenter.settings.threshold
        if prompted.box is None or not prompted.in_box(prompted.points[prompted.positive]).all():
            return answer
        ellipsoid = _Inscribed(prompted.box)

        def mixed(view: View, probability: FloatArray) -> FloatArray:
            told = ellipsoid.seen_from(view) - np.float32(0.5 - threshold)
            return (1 - np.float32(share)) * probability + np.float32(share) * told

        return Answer(tuple((view, mixed(view, probability)) for view, probability in answer.parts))

    def _edited(self, given: BoolArray, prompted: GridPrompts) -> BoolArray:
        """A mask of the user's with the network's changes: where it agrees or did not look, not a voxel moves.

        It disagrees where its answer is more than half away from the mask as it was shown: a border between two
        voxels of a view is no disagreement. Where the two differ over two of these voxels and more, all that differs
        there is changed: at the old border the mask is shown as a half, from which no answer is as far.
        """
        before = _Given(self, given)
        answer = self._follow(prompted, before)
        shown = Answer(tuple((view, before.seen_from(view)) for view, _ in answer.parts))
        box, probability, looked = answer.on_volume(self.prepared)
        _, as_seen, _ = shown.on_volume(self.prepared)
        threshold = self.segmenter.settings.threshold
        answered = probability > threshold
        away = abs(probability - threshold + np.float32(0.5) - as_seen) > 0.5
        other = looked & (answered != given[box])
        finest = min(view.step for view, _ in answer.parts)
        voxel = [finest * n / m for n, m in zip(given.shape, self.prepared.shape, strict=True)]
        mask = given.copy()
        mask[box] ^= other & (away | _about_the_deep(other, voxel))
        return mask

    # Views

    def _follow(self, prompted: GridPrompts, before: Before | None) -> Answer:
        """Look where the prompts ask to, as wide and as near as the lesion wants it."""
        parts: list[tuple[View, FloatArray]] = []
        for view in prompted.first_views(self.side, self.finest):
            parts += self._zoomed(view, prompted, before)
        if len(parts) > 1:  # every view once more, told what all of them saw
            together = Answer(tuple(parts))
            # Of more views than are kept the last are still there: they come first, before others drive them out.
            turn = -1 if len(parts) > self.segmenter.settings.cached_views else 1
            parts = [(view, self._probability(view, prompted, together)) for view, _ in parts[::turn]][::turn]
        return Answer(tuple(parts))

    def _zoomed(self, view: View, prompted: GridPrompts, before: Before | None) -> list[tuple[View, FloatArray]]:
        """The first view, and wider ones about its centre while the lesion touches a face; or, where only a click
        says where to look, a nearer one instead, while the lesion is hardly seen."""
        nearest = self.finest if prompted.box is None and not isinstance(before, _Given) else view.step
        probability = self._probability(view, prompted, before)
        lesion = self._lesion(probability, prompted, view)
        while across(lesion) < LEAST_ACROSS and view.step > nearest:
            view = view.narrowed(max(view.step * NARROWER, nearest), prompted.clicked_in(view))
            probability = self._probability(view, prompted, before)
            lesion = self._lesion(probability, prompted, view)
        parts = [(view, probability)]
        widest = max(self.segmenter.settings.widest, view.step) + 1e-6
        while view.touches(lesion, self.prepared.shape) and view.step * WIDER <= widest:
            view = view.widened(WIDER)
            probability = self._probability(view, prompted, before)
            lesion = self._lesion(probability, prompted, view)
            parts.append((view, probability))
        return parts

    def _lesion(self, probability: FloatArray, prompted: GridPrompts, view: View) -> BoolArray:
        return prompted.prompted_part(probability > self.segmenter.settings.threshold, view)

    def _searched(self, prompts: Prompts, prompted: GridPrompts) -> BoolArray:
        """Nobody says where to look: wide views over the body, and then the dialogue that begins with a click into
        what they found."""
        mask = np.zeros(self.volume.shape, np.bool_)
        settings = self.segmenter.settings
        body = bounding_box(self.prepared.array > self.fill + 1e-3)  # all that is brighter than the darkest value
        if body is None:
            return mask
        views = views_over(body, settings.search_view, self.side, settings.overlap)
        answer = Answer(tuple((view, self._probability(view, prompted, None, keep=False)) for view in views))
        step, shape = settings.search_view, self.prepared.shape
        for place in parts_found(answer, shape, step, settings.threshold, settings.part_share):
            click = Click(self._voxel(place), True)
            told = replace(prompts, mask=None, clicks=(click, *prompts.clicks))  # a mask that led here is empty
            mask |= self._on_volume(self._answer(told))
        return mask

    def _voxel(self, place: NDArray[np.float64]) -> tuple[int, int, int]:
        """The voxel of the volume's own grid nearest to a place on the model's."""
        sizes = zip(place, self.prepared.native_shape, self.prepared.shape, strict=True)
        x, y, z = (min(max(round((at + 0.5) * (native / own) - 0.5), 0), native - 1) for at, native, own in sizes)
        return x, y, z

    def _probability(self, view: View, prompted: GridPrompts, before: Before | None, keep: bool = True) -> FloatArray:
        """What the network says in a view, told the prompts in it and the answer before."""
        previous = None if before is None else before.seen_from(view)
        tensors = prompted.in_view(view, self.segmenter.device, previous)
        looks = [self._look(view, tensors, mirrored, keep) for mirrored in self.mirrors]
        probability: FloatArray = finite(torch.stack(looks).mean(dim=0)).cpu().numpy()
        return probability

    def _look(self, view: View, tensors: PromptTensors, mirrored: bool, keep: bool) -> torch.Tensor:
        """The probabilities in a view, straight or by way of its mirror image."""
        encoding = self._encode(view, mirrored, keep)
        told = tensors.mirrored(view.side) if mirrored else tensors
        logits, _ = self.segmenter.module.decode(encoding, told)
        probability = logits[0, 0].float().sigmoid()
        return probability.flip(0) if mirrored else probability

    def _encode(self, view: View, mirrored: bool, keep: bool) -> Encoding:
        if (view, mirrored) in self._encodings:
            self._encodings.move_to_end((view, mirrored))
            return self._encodings[view, mirrored]
        device, module = self.segmenter.device, self.segmenter.module
        image = torch.from_numpy(self._cut(view)).to(device)[None, None]
        bounds = bounds_of([self.target]).to(device)
        seen = module.see(image, bounds)
        if mirrored:  # CLIP looks before, as in training
            image = flipped(image, LEFT_AND_RIGHT)
            seen = None if seen is None else flipped_features(seen, LEFT_AND_RIGHT)
        encoding = module.encode(image, [self.anatomy], bounds, seen)
        if keep:
            self._encodings[view, mirrored] = encoding
            while len(self._encodings) > self.segmenter.settings.cached_views * len(self.mirrors):
                self._encodings.popitem(last=False)
        return encoding

    def _cut(self, view: View) -> FloatArray:
        """What a view sees; one finer than the model's grid looks at the volume itself."""
        if view.step >= 1:
            return view.cut(self.prepared, self.fill)
        array, inside = self._native(self.volume.array, view)
        if self.recipe.window is not None:
            array = array.clip(*self.recipe.window)
        seen = (array - self.recipe.mean) / self.recipe.std
        return np.where(inside, seen, self.fill).astype(np.float32)

    def _native(self, array: FloatArray | BoolArray, view: View) -> tuple[FloatArray, BoolArray]:
        """Linear samples of an array on the volume's own grid in the voxels of a view, and which lie in the scan."""
        axes = view.axes
        places = [
            (axis + 0.5) * (n / m) - 0.5
            for axis, n, m in zip(axes, self.prepared.native_shape, self.prepared.shape, strict=True)
        ]
        box = []
        for place, n in zip(places, array.shape, strict=True):
            low, high = int(np.floor(place[0])), int(np.ceil(place[-1])) + 1
            start = min(max(low, 0), n - 1)
            box.append(slice(start, max(min(high, n), start + 1)))
        part = array[box[0], box[1], box[2]].astype(np.float32)
        x, y, z = ((a > -0.5) & (a < n - 0.5) for a, n in zip(axes, self.prepared.shape, strict=True))
        values = sampled(part, [place - side.start for place, side in zip(places, box, strict=True)])
        return values, x[:, None, None] & y[:, None] & z


class _Inscribed:
    """What a box says as an answer of the round before: the ellipsoid that it holds, with a soft border."""

    def __init__(self, box: NDArray[np.float64]) -> None:
        low, high = box
        self.low, self.high = low.tolist(), high.tolist()

    def seen_from(self, view: View) -> FloatArray:
        """Its probability in the voxels of a view."""
        axes = [torch.tensor(axis, dtype=torch.float32) for axis in view.axes]
        seen: FloatArray = inscribed(self.low, self.high, axes).numpy()
        return seen


class _Given:
    """A mask of the user's as an answer of the round before."""

    def __init__(self, session: TagsSession, mask: BoolArray) -> None:
        self.session, self.mask = session, mask
        prepared = session.prepared
        on_grid = prepared.label(mask).astype(np.float32) if mask.any() else np.zeros(prepared.shape, np.float32)
        self.prepared = replace(prepared, array=on_grid)

    def seen_from(self, view: View) -> FloatArray:
        """The mask in the voxels of a view."""
        if view.step >= 1:
            return view.cut(self.prepared, 0.0)
        seen, inside = self.session._native(self.mask, view)
        return np.where(inside, seen, np.float32(0))


def _about_the_deep(mask: BoolArray, voxel: Sequence[float]) -> BoolArray:
    """Where a mask is two voxels of a view deep along each axis, and three quarters of one about it.

    Args:
        voxel: how many voxels of the mask a voxel of the view is long, along each axis.
    """
    depth = [math.ceil(2 * n) for n in voxel]
    reach = [size + 2 * math.ceil(0.75 * n) for size, n in zip(depth, voxel, strict=True)]
    middle = [size % 2 - 1 for size in depth]  # an even window has none of its own: what it took below it gives above
    deep = ndimage.minimum_filter(mask, depth)
    around: BoolArray = ndimage.maximum_filter(deep, reach, origin=middle)
    return around


def _rounds(prompts: Prompts) -> list[Prompts]:
    """The prompts after each round: the box, if there is one, then every click from the first positive one on."""
    clicks: tuple[Click, ...] = prompts.clicks
    first = 0
    if prompts.box is None:
        first = next(number for number, click in enumerate(clicks, start=1) if click.positive)
    return [replace(prompts, clicks=clicks[:number]) for number in range(first, len(clicks) + 1)]
