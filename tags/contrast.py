"""Small towers of CLIP's kind, trained by contrast on slices of phantoms and on the sentences that name what they show.

    python -m tags.contrast        # less than 20 minutes on one core; writes tags/zoo/clip-phantoms

They take CLIP's place at the tiny size (`clip: tiny-phantoms`, `clip_weights: phantoms`), so that words and slices
carry knowledge there, too: of SYNTHETIC organs, tumours and cysts, and of nothing else. The phantoms are drawn from
seeds of their own, which no suite uses, and are never written to disk.

A patch of a slice is pulled towards the sentences of what fills it and pushed away from those of everything that it is
known not to be. What a phantom's label map leaves unnamed may be another organ, so that it is pushed away from the
names of its own data set only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor, nn

from benchmarks.common.environment import manifest
from benchmarks.data.layouts import kits21, lits17, msd
from benchmarks.data.preprocessing import crop, resize
from benchmarks.data.synthetic.abdomen import Abdomen
from benchmarks.data.synthetic.scan import draw
from tags.anatomy import Anatomy, AnatomyPrompts, lesion_sentences, organ_sentences
from tags.augment import rotations, seen
from tags.semantic import PHANTOM_CLIP, ClipVision, build_clip, slice_centres
from tags.weights import PHANTOMS, phantom_towers, save_phantom_towers, seed_tower

SEED, UNSEEN_SEED = 770_071, 770_070  # of the phantoms that are learned from, and of those that are tested on
CASES, UNSEEN_CASES = 96, 12  # of each data set
STEPS, BATCH = 4000, 16
LEARNING_RATE, WARM_UP = 1e-3, 0.05
SOURCE_MM = 2.0  # the phantoms' voxels before a view is taken
VIEW_MM = (1.2, 6.0)  # a voxel of a view, as TAGS's first to widest views of phantoms have them
SIDE, SLICES = 32, 4  # of a view, as `tags-tiny` looks
ORGAN, TUMOUR, CYST = range(3)  # the layers of a label map


@dataclass(frozen=True)
class Family:
    """The phantoms of one data set, and the window that its targets are seen through (HU)."""

    abdomen: Abdomen
    window: tuple[float, float]

    @property
    def names(self) -> tuple[Anatomy, Anatomy, Anatomy]:
        """What its label maps name, in the order of their layers."""
        organ = self.abdomen.organ
        return (organ, ""), (organ, "tumor"), (organ, "cyst")


FAMILIES = tuple(
    Family(abdomen, info.targets[0].window)
    for abdomen, info in (
        (kits21.ABDOMEN, kits21.INFO),
        (msd.ABDOMEN, msd.PANCREAS),
        (lits17.ABDOMEN, lits17.INFO),
    )
)
NAMES: tuple[Anatomy, ...] = tuple(name for family in FAMILIES for name in family.names)


@dataclass(frozen=True)
class Scene:
    """One phantom at 2 mm, and at half that resolution for wide views.

    Attributes:
        family: index into `FAMILIES`.
        label: (X, Y, Z), 0 for what is unnamed, else the layer plus one.
        levels: (4, X, Y, Z), then half as many voxels along each axis: HU, and the share of each layer.
    """

    family: int
    label: NDArray[np.uint8]
    levels: tuple[NDArray[np.float16], NDArray[np.float16]]


def scenes(seed: int, cases: int) -> list[Scene]:
    """The phantoms of every family, drawn in memory; cysts have a label of their own in all of them."""

    def one(place: tuple[int, int]) -> Scene:
        family, index = place
        abdomen = FAMILIES[family].abdomen
        phantom = draw(replace(abdomen, kind=replace(abdomen.kind, cyst_label=1 + CYST)), seed, index)
        extent = np.multiply(phantom.image.shape, phantom.spacing)
        x, y, z = (max(1, round(mm / SOURCE_MM)) for mm in extent)
        sides = zip((x, y, z), phantom.label.shape, strict=True)
        nearest = np.ix_(*(((np.arange(n) + 0.5) * m / n).astype(int) for n, m in sides))
        label = phantom.label[nearest]
        layers = [resize(phantom.image, (x, y, z)), *(label == 1 + layer for layer in (ORGAN, TUMOUR, CYST))]
        fine = np.stack(layers).astype(np.float16)
        coarse = F.avg_pool3d(torch.from_numpy(fine)[None].float(), 2)[0].half().numpy()
        return Scene(family, label, (fine, coarse))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, [(family, index) for family in range(len(FAMILIES)) for index in range(cases)]))


@dataclass(frozen=True)
class Views:
    """What the tower looks at in one step.

    Attributes:
        image: (B, 1, 32, 32, 32), 0 to 1 from the lower to the upper end of a window.
        shares: (B, 3, 8, 8, S), the share of every patch of a slice that each layer fills.
        family: (B,), whose names the layers have.
    """

    image: Tensor
    shares: Tensor
    family: Tensor


def draw_views(known: Sequence[Scene], batch: int, random: np.random.Generator, device: torch.device) -> Views:
    """Views of random phantoms, three of four centred in something that has a name, turned and stretched a little."""
    images, shares, families = [], [], []
    for _ in range(batch):
        scene = known[int(random.integers(len(known)))]
        voxel = float(np.exp(random.uniform(*np.log(VIEW_MM)))) / SOURCE_MM
        level = int(voxel >= 2)
        factors = torch.tensor(voxel / 2**level * random.uniform(0.9, 1.1, 3), dtype=torch.float32)
        turn = rotations(torch.tensor(np.radians(random.uniform(-20, 20, (1, 3))), dtype=torch.float32))[0]
        reach = 2 * math.ceil(SIDE / 2 * float(factors.max()) * 1.4) + 8
        centre = _centre(scene, random) / 2**level
        low, high = FAMILIES[int(random.integers(len(FAMILIES)))].window
        hu, *layers = (
            crop(layer, centre, (reach,) * 3, fill)[0]
            for layer, fill in zip(scene.levels[level], (-1024, 0, 0, 0), strict=True)
        )
        image = (hu.astype(np.float32).clip(low, high) - low) / (high - low)
        source = torch.from_numpy(np.stack((image, *layers)).astype(np.float32))[None].to(device)
        view = seen(source, SIDE, factors, turn)
        images.append(view[:, :1])
        shares.append(view[:, 1:])
        families.append(scene.family)
    return Views(torch.cat(images), _patches(torch.cat(shares)), torch.tensor(families, device=device))


def _centre(scene: Scene, random: np.random.Generator) -> NDArray[np.intp]:
    """A voxel of the organ, of the tumour or of the cyst, or any voxel at all, one time in four each."""
    layer = int(random.integers(4))
    inside = np.flatnonzero(scene.label == 1 + layer) if layer <= CYST else np.zeros(0, np.intp)
    chosen = random.choice(inside) if len(inside) else random.integers(scene.label.size)
    return np.array(np.unravel_index(int(chosen), scene.label.shape), np.intp)


def _patches(layers: Tensor) -> Tensor:
    """(B, 3, 32, 32, 32) → (B, 3, 8, 8, S): mean over each patch of the slices that `ClipVision` looks at."""
    slices = layers[..., slice_centres(layers.shape[-1], SLICES).to(layers.device)]
    return F.avg_pool3d(slices, (SIDE // 8, SIDE // 8, 1))


class Contrast(nn.Module):
    """The towers, and the loss between what they see and what they read."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.clip = clip
        self.vision = ClipVision(clip, SLICES, (-1,))
        self.words = AnatomyPrompts(clip, dim=1, context=0)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def forward(self, views: Views, text: Tensor) -> Tensor:
        """Loss of patches against names; `text` (names, E), unit length."""
        logits = self.scale * self.likeness(views, text) + self.bias
        wanted, known = named(views)
        pairs = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        for_, against = known * wanted, known * (1 - wanted)
        loss = (pairs * for_).sum() / for_.sum().clamp(min=1) + (pairs * against).sum() / against.sum().clamp(min=1)
        filled = wanted.amax(dim=1) > 0
        right = wanted.argmax(dim=1)
        rival = F.cross_entropy(logits, right, reduction="none", weight=self._weights(right, filled))
        return loss + (rival * filled).sum() / filled.sum().clamp(min=1)

    def likeness(self, views: Views, text: Tensor) -> Tensor:
        """(B, names, 8, 8, S): cosine of every patch with every name."""
        bounds = torch.tensor([[0.0, 1.0]], device=views.image.device).expand(len(views.image), 2)
        joint = F.normalize(self.vision.look(views.image, bounds).joint, dim=1)
        return torch.einsum("ne,bexys->bnxys", text, joint)

    def sentences(self, random: np.random.Generator) -> Tensor:
        """(names, E): for each name one of its sentences."""
        chosen = []
        for name in NAMES:
            several = lesion_sentences(name) if name[1] else organ_sentences(name)
            chosen.append(several[int(random.integers(len(several)))])
        return self.words.embed_sentences(chosen)

    def names(self) -> Tensor:
        """(names, E): each name as TAGS reads it."""
        return torch.stack([self.words.text(name)[1 if name[1] else 0] for name in NAMES])

    @staticmethod
    def _weights(right: Tensor, filled: Tensor) -> Tensor:
        """Every name that is seen weighs the same, however few patches show it."""
        counts = torch.bincount(right[filled], minlength=len(NAMES)).float()
        return torch.where(counts > 0, counts.sum() / counts.clamp(min=1) / (counts > 0).sum().clamp(min=1), 0.0)


def named(views: Views) -> tuple[Tensor, Tensor]:
    """(B, names, 8, 8, S) twice: where a name fills more than half a patch, and where it is known whether it does."""
    fills = (views.shares > 0.5).float()
    batch, _, *grid = fills.shape
    wanted = torch.zeros(batch, len(NAMES), *grid, device=fills.device)
    known = torch.zeros_like(wanted)
    empty = (views.shares.sum(dim=1, keepdim=True) < 0.05).float()
    sure = torch.maximum(fills.amax(dim=1, keepdim=True), empty)
    for index, family in enumerate(views.family.tolist()):
        own = slice(3 * family, 3 * family + 3)
        wanted[index, own] = fills[index]
        known[index] = fills[index].amax(dim=0)
        known[index, own] = sure[index]
    return wanted, known


def train(known: Sequence[Scene], steps: int, device: torch.device, seed: int = 0) -> Contrast:
    """Towers from scratch; the learning rate rises, then falls to nothing along a cosine."""
    random = np.random.default_rng(seed)
    clip = build_clip(PHANTOM_CLIP)
    seed_tower(clip, seed)
    model = Contrast(clip).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01)
    warm = max(1, int(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, 0.5 + 0.5 * float(np.cos(np.pi * step / steps)))
    )
    for step, views in enumerate(_ahead(known, steps, random, device)):
        loss = model(views, model.sentences(random))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 500 == 0 or step + 1 == steps:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def _ahead(known: Sequence[Scene], steps: int, random: np.random.Generator, device: torch.device) -> Iterator[Views]:
    """The views of every step, in order, each drawn from a generator of its own while the step before is computed."""
    with ThreadPoolExecutor(1) as pool:
        seeds = random.integers(2**63, size=steps)
        following = pool.submit(draw_views, known, BATCH, np.random.default_rng(seeds[0]), device)
        for step in range(steps):
            views = following.result()
            if step + 1 < steps:
                following = pool.submit(draw_views, known, BATCH, np.random.default_rng(seeds[step + 1]), device)
            yield views


@torch.no_grad()
def recall(model: Contrast, unseen: Sequence[Scene], batches: int = 100, seed: int = 1) -> dict[str, float]:
    """For every name the share of the patches filled by it that are more like it than like any other name."""
    random = np.random.default_rng(seed)
    device = model.scale.device
    text = model.names().to(device)
    hits, all_ = torch.zeros(len(NAMES)), torch.zeros(len(NAMES))
    for _ in range(batches):
        views = draw_views(unseen, BATCH, random, device)
        cosine = model.likeness(views, text)
        wanted, _ = named(views)
        filled, right = wanted.amax(dim=1) > 0, wanted.argmax(dim=1)
        all_ += torch.bincount(right[filled], minlength=len(NAMES)).cpu()
        hits += torch.bincount(right[filled & (cosine.argmax(dim=1) == right)], minlength=len(NAMES)).cpu()
    share = (hits / all_.clamp(min=1)).tolist()
    return {_in_words(name): round(one, 3) for name, one in zip(NAMES, share, strict=True)}


def _in_words(name: Anatomy) -> str:
    return " ".join(name).strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure on phantoms of another seed, and write weights and card."""
    parser = argparse.ArgumentParser(prog="python -m tags.contrast", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cases", type=int, default=CASES, help="phantoms of each data set")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=phantom_towers())
    chosen = parser.parse_args(arguments)
    model = train(scenes(SEED, chosen.cases), chosen.steps, torch.device(chosen.device))
    found = recall(model, scenes(UNSEEN_SEED, min(UNSEEN_CASES, chosen.cases)))
    card: dict[str, Any] = {
        "what": "CLIP towers trained by contrast on SYNTHETIC phantoms and sentences about them",
        "command": f"python -m tags.contrast --steps {chosen.steps} --cases {chosen.cases} --device {chosen.device}",
        "architecture": PHANTOM_CLIP,
        "weights": PHANTOMS,
        "phantoms": {"seed": SEED, "cases of each data set": chosen.cases, "names": [_in_words(n) for n in NAMES]},
        "recall on unseen phantoms": {"seed": UNSEEN_SEED, **found},
        "environment": manifest(),
    }
    save_phantom_towers(model.clip, card, chosen.out)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
