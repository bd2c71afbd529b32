"""Every decision of TAGS as a named option, and its sizes. Plain values only: importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

STRIDE = 4  # voxels per token along each axis
WORDS = {
    "fusion": ("gated", "concat", "none"),
    "semantic_gate": ("film", "attention"),
    "decoder_norm": ("instance", "group"),
}


@dataclass(frozen=True)
class TagsConfig:
    """Every decision of the architecture. The defaults are `tags-vit-b`.

    Attributes:
        patch: crop side in voxels, a multiple of 4.
        embed_dim, depth, heads, mlp_ratio: SAM's ViT.
        sam_grid, sam_window, sam_global: side of SAM's position table, its window, its blocks with global attention
            (they fix the shapes of its tables, not the attention used here).
        freeze_backbone: keep SAM's weights; False trains them too (for towers without pre-trained weights).
        window, shift: cubic attention windows.
        checkpointing: recompute encoder blocks in the backward pass; on, except where memory is no concern.
        adapters, adapter_ratio, adapter_kernel, adapter_every: spatial adapters, in every n-th block.
        semantic, clip, clip_slices, clip_layers, semantic_gate, semantic_dim: semantic guidance.
        anatomy, context: anatomy prompts; learnable context vectors.
        fusion, fusion_layers, fusion_heads, fusion_hidden, queries: multi-prompt fusion.
        dim: channels of features and prompt tokens.
        click_scales: standard deviations in voxels of the dense click maps.
        decoder_dim, decoder_norm, pyramid, refine, refine_kernel: mask decoder.
    """

    patch: int = 128
    embed_dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    sam_grid: int = 64
    sam_window: int = 14
    sam_global: tuple[int, ...] = (2, 5, 8, 11)
    freeze_backbone: bool = True
    window: int = 8
    shift: bool = True
    checkpointing: bool = True
    adapters: bool = True
    adapter_ratio: float = 0.5
    adapter_kernel: int = 3
    adapter_every: int = 1
    semantic: bool = True
    clip: str = "ViT-B-16-quickgelu"
    clip_slices: int = 16
    clip_layers: tuple[int, ...] = (-4, -1)
    semantic_gate: str = "film"
    semantic_dim: int = 256
    anatomy: bool = True
    context: int = 4
    fusion: str = "gated"
    fusion_layers: int = 2
    fusion_heads: int = 8
    fusion_hidden: int = 1024
    queries: int = 10
    dim: int = 256
    click_scales: tuple[float, ...] = (4.0, 10.0, 25.0)
    decoder_dim: int = 64
    decoder_norm: str = "instance"
    pyramid: bool = True
    refine: int = 16
    refine_kernel: int = 3

    def __post_init__(self) -> None:
        for name, words in WORDS.items():
            if getattr(self, name) not in words:
                known = f"{', '.join(words[:-1])} or {words[-1]}"
                raise ValueError(f"{name} must be {known}, not {getattr(self, name)!r}")
        if self.patch % STRIDE or self.patch <= 0:
            raise ValueError(f"patch must be a multiple of {STRIDE}, not {self.patch}")
        if self.depth % 4 or self.depth <= 0:
            raise ValueError(f"depth must be a multiple of 4 (features at four depths), not {self.depth}")
        if self.dim % (2 * self.fusion_heads):
            raise ValueError(f"dim ({self.dim}) must be a multiple of twice fusion_heads ({self.fusion_heads})")
        if self.fusion == "gated" and not (self.queries or self.semantic or self.anatomy):
            raise ValueError("queries must not be 0 where neither semantic nor anatomy gives the gated fusion a token")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TagsConfig:
        """From plain JSON-like values (lists become tuples); keys of other parts are left to them."""
        return cls(**_own(cls, values))

    @property
    def taps(self) -> tuple[int, ...]:
        """Number of blocks after which a feature is taken and guidance enters: 3, 6, 9, 12 for ViT-B."""
        return tuple(self.depth * quarter // 4 for quarter in (1, 2, 3, 4))

    @property
    def tables(self) -> tuple[int, ...]:
        """Rows of SAM's relative-position tables, by block."""
        return tuple(
            2 * (self.sam_grid if index in self.sam_global else self.sam_window) - 1 for index in range(self.depth)
        )

    @property
    def adapter_blocks(self) -> tuple[int, ...]:
        return tuple(range(0, self.depth, self.adapter_every)) if self.adapters else ()


SIZES: dict[str, dict[str, Any]] = {
    "vit-b": {},
    "vit-l": {
        "embed_dim": 1024,
        "depth": 24,
        "heads": 16,
        "sam_global": (5, 11, 17, 23),
        "clip": "ViT-L-14-quickgelu",
        "adapter_ratio": 0.25,
    },
    "vit-h": {
        "embed_dim": 1280,
        "depth": 32,
        "heads": 16,
        "sam_global": (7, 15, 23, 31),
        "clip": "ViT-L-14-quickgelu",
        "adapter_ratio": 0.25,
    },
    "tiny": {
        "patch": 32,
        "checkpointing": False,
        "embed_dim": 32,
        "depth": 4,
        "heads": 2,
        "mlp_ratio": 2.0,
        "sam_grid": 8,
        "sam_window": 4,
        "sam_global": (),
        "freeze_backbone": False,
        "window": 4,
        "clip": "tiny",
        "clip_slices": 4,
        "clip_layers": (-1,),
        "semantic_dim": 32,
        "context": 0,
        "fusion_layers": 1,
        "fusion_heads": 4,
        "fusion_hidden": 64,
        "queries": 4,
        "dim": 32,
        "click_scales": (1.5, 4.0, 10.0),
        "decoder_dim": 16,
        "refine": 0,
    },
}


def sized(size: str, **overrides: Any) -> TagsConfig:
    """The configuration of "tiny", "vit-b", "vit-l" or "vit-h"."""
    return TagsConfig(**{**SIZES[size], **overrides})


SHARES = (
    "foreground", "deep", "prompt_dropout", "dropout_elsewhere", "single_click", "central_click", "box_share",
    "mask_share", "dice_weight", "part_share",
)  # fmt: skip
BELOW_ONE = ("threshold", "overlap", "warm_up", "ema", "stretch")
ABOVE_ZERO = ("learning_rate", "gradient_clip", "batch_size", "search_view", "widest")
NOT_NEGATIVE = (
    "final_learning_rate", "weight_decay", "corrections", "clicks", "coarse_weight", "tilt", "cached_views",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How a model of a given architecture is fed, trained and used.

    Attributes:
        sam_weights: file (path, or name in the weights folder) or "random".
        clip_weights: open_clip pre-trained tag, file, or "random".
        spacing: mm per voxel of the first view, isotropic; None lets the training cases decide, see `tags.plan`.
        learning_rate, final_learning_rate, warm_up, weight_decay, gradient_clip, batch_size, foreground, deep:
            see `TrainingRecipe`.
        ema: decay of the moving average of the weights that is kept in the end; 0 for none.
        corrections: most correction rounds after the first prediction of a training step.
        clicks, prompt_dropout, dropout_elsewhere, single_click, central_click, box_share, mask_share: training
            prompts, see `sampling.Sampling`.
        zoom: range of the field of view of a training crop, as a multiple of the first view's.
        stretch: by how much each axis of a training crop may depart from its zoom, as a share.
        tilt: largest angle in degrees by which a training crop is turned about each axis.
        augment_intensity: chance of each of five changes of a training crop's intensities, see `tags.intensity`.
        flips: chance that each axis (x, y, z) of a training crop is turned round, after CLIP has looked; None
            for left and right alone, and that only where the anatomy allows it, see `targets.flips_of`.
        dice_weight: Dice's share in the loss, the rest is cross-entropy.
        coarse_weight: weight of the same loss on the decoder's coarse logits.
        threshold: probability above which a voxel is tumour.
        search_view: field of view of the views in which a volume is searched without clicks, likewise a multiple.
        overlap: of neighbouring ones, as a share of their side, less than 1.
        part_share: of the heaviest part that they find; parts that weigh less are not looked at.
        box_prior: share of the ellipsoid in a box in the answer, the rest is the network's: up to a half, so that at
            the default threshold a network that is sure overrules it. It has no say once a positive click lies outside
            the box.
        widest: largest field of view of a prompted view, as a multiple of the first view's.
        mirror: look at every view a second time in the mirror, left and right exchanged, and take the mean; only
            where training exchanges them, too. It doubles the cost of everything.
        cached_views: views of which the encodings are kept per session; one takes 126 MB at ViT-B's size in float32.
        mixed_precision: bf16 where the device gains by it: on a GPU that has it, in training and at inference; on a CPU
            with AMX tiles, at inference alone.
    """

    sam_weights: str = "sam_vit_b_01ec64.pth"
    clip_weights: str = "openai"
    spacing: float | None = None
    learning_rate: float = 4e-4
    final_learning_rate: float = 4e-6
    warm_up: float = 0.02
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    batch_size: int = 2
    foreground: float = 0.8
    deep: float = 0.6
    ema: float = 0.99
    corrections: int = 2
    clicks: int = 10
    prompt_dropout: float = 0.1
    dropout_elsewhere: float = 0.5
    single_click: float = 0.5
    central_click: float = 0.8
    box_share: float = 0.3
    mask_share: float = 0.15
    zoom: tuple[float, float] = (0.7, 2.4)
    stretch: float = 0.1
    tilt: float = 10.0
    augment_intensity: float = 0.0
    flips: tuple[float, float, float] | None = None
    dice_weight: float = 0.5
    coarse_weight: float = 0.0
    threshold: float = 0.5
    search_view: float = 1.5
    overlap: float = 0.5
    part_share: float = 0.5
    box_prior: float = 0.5
    widest: float = 2.25
    mirror: bool = False
    cached_views: int = 8
    mixed_precision: bool = True

    def __post_init__(self) -> None:
        """What no run can have: beyond its limits a setting does not fail, it gives empty masks or trains nothing."""
        for name in SHARES:
            self._require(0 <= getattr(self, name) <= 1, name, "a share from 0 to 1")
        for name in BELOW_ONE:
            self._require(0 <= getattr(self, name) < 1, name, "a share from 0 to below 1")
        for name in ABOVE_ZERO:
            self._require(getattr(self, name) > 0, name, "above 0")
        for name in NOT_NEGATIVE:
            self._require(getattr(self, name) >= 0, name, "0 or more")
        if not 0 <= self.box_prior <= 0.5:
            raise ValueError(f"box_prior must lie between 0 and 0.5, not at {self.box_prior}")
        self._require(0 <= self.augment_intensity <= 1, "augment_intensity", "a chance between 0 and 1")
        self._require(self.spacing is None or (_is_number(self.spacing) and self.spacing > 0), "spacing", "mm above 0")
        near_to_far = isinstance(self.zoom, tuple) and len(self.zoom) == 2 and 0 < self.zoom[0] <= self.zoom[1]
        self._require(near_to_far, "zoom", "two factors above 0, the smaller one first")
        self._require(self.flips is None or _are_chances(self.flips), "flips", "three chances between 0 and 1")

    def _require(self, fits: bool, name: str, what: str) -> None:
        if not fits:
            raise ValueError(f"{name} is {what}, not {getattr(self, name)}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Settings:
        """From plain JSON-like values; keys of other parts are left to them."""
        return cls(**_own(cls, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_chances(value: Any) -> bool:
    """Three of them, one for each axis."""
    return isinstance(value, tuple) and len(value) == 3 and all(_is_number(one) and 0 <= one <= 1 for one in value)


def check(values: Mapping[str, Any]) -> None:
    """Raises ValueError for a configuration that no run can have."""
    TagsConfig.from_mapping(values)
    Settings.from_mapping(values)


SETTINGS: dict[str, dict[str, Any]] = {
    "vit-b": {},
    "vit-l": {"sam_weights": "sam_vit_l_0b3195.pth"},
    "vit-h": {"sam_weights": "sam_vit_h_4b8939.pth", "batch_size": 1},
    "tiny": {
        "sam_weights": "random",
        "clip_weights": "random",
        "learning_rate": 1e-2,
        "final_learning_rate": 1e-4,
        "warm_up": 0.05,
        "foreground": 0.6,
        "tilt": 20.0,
        "prompt_dropout": 0.35,
        "dropout_elsewhere": 0.85,
        "flips": (0.5, 0.5, 0.5),
    },
}


def _own(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in names}


def defaults(size: str) -> dict[str, Any]:
    """All options of a size as plain, JSON-like values."""
    merged = {**asdict(sized(size)), **asdict(Settings(**SETTINGS[size]))}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in merged.items()}
