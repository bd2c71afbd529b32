"""TAGS assembled; a forward pass has two halves: the image once, the prompts many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tags.anatomy import Anatomy, AnatomyPrompts
from tags.config import STRIDE, TagsConfig
from tags.fusion import MultiPromptFusion
from tags.image_encoder import ImageEncoder
from tags.mask_decoder import MaskDecoder
from tags.prompt_encoder import PromptEncoder, PromptTensors
from tags.recompute import recomputed
from tags.semantic import ClipVision, SemanticGuidance, VisualFeatures, build_clip
from tags.stem import VolumetricStem


@dataclass
class Encoding:
    """All that depends on the crop and the target, but on no prompt.

    Attributes:
        image: (B, 1, X, Y, Z), the crop.
        static: the decoder's prompt-independent shares, see `MaskDecoder.static`.
        feature: (B, dim, G, G, G), the deepest feature.
        anatomy: (B, 2, dim) organ and lesion tokens, or None.
        clip: (B, E) pooled CLIP image embedding, or None.
    """

    image: Tensor
    static: tuple[Tensor, Tensor]
    feature: Tensor
    anatomy: Tensor | None
    clip: Tensor | None

    def crop(self, index: int) -> Encoding:
        """That of one crop of the batch."""
        one = slice(index, index + 1)
        return Encoding(
            image=self.image[one],
            static=(self.static[0][one], self.static[1][one]),
            feature=self.feature[one],
            anatomy=None if self.anatomy is None else self.anatomy[one],
            clip=None if self.clip is None else self.clip[one],
        )


def as_pictures(volume: Tensor) -> Tensor:
    """(B, C, X, Y, Z) → (B, C, rows, columns, Z) and back: it undoes itself.

    SAM learned from photographs, which have their rows from top to bottom. A radiological slice that stands upright
    has the front (high y in RAS+) at the top and the patient's right (high x) on the left.
    """
    return volume.transpose(2, 3).flip(2, 3)


class TAGS(nn.Module):
    """3D Tumor-Adaptive Guidance for SAM.

    Crop (B, 1, X, Y, Z) → tumour logits (B, 1, X, Y, Z).
    """

    def __init__(self, config: TagsConfig) -> None:
        super().__init__()
        self.config = config
        grid = config.patch // STRIDE
        self.stem = VolumetricStem(config.embed_dim, grid, config.sam_grid)
        self.encoder = ImageEncoder(config)
        self.clip = build_clip(config.clip) if config.semantic or config.anatomy else None
        self.vision: ClipVision | None = None
        self.semantic: SemanticGuidance | None = None
        self.anatomy: AnatomyPrompts | None = None
        self.similarity_in: nn.Conv3d | None = None
        if self.clip is not None and config.semantic:
            self.vision = ClipVision(self.clip, config.clip_slices, config.clip_layers)
            self.semantic = SemanticGuidance(
                self.vision.width, config.semantic_dim, config.embed_dim, len(config.taps), config.semantic_gate
            )
        if self.clip is not None and config.anatomy:
            self.anatomy = AnatomyPrompts(self.clip, config.dim, config.context)
            if self.vision is not None:  # the map needs CLIP's eyes as well as its words
                self.similarity_in = nn.Conv3d(2, config.dim, 1)
        self.prompts = PromptEncoder(config.dim, config.click_scales)
        self.fusion = MultiPromptFusion(
            config.dim,
            self.vision.embed_dim if self.vision is not None else 0,
            config.queries,
            config.fusion,
            config.fusion_layers,
            config.fusion_heads,
            config.fusion_hidden,
        )
        self.decoder = MaskDecoder(config, self.prompts.dense_prior())
        self._freeze()

    def _freeze(self) -> None:
        for _, parameter in self.frozen_parameters():
            parameter.requires_grad_(False)

    def frozen_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Name and parameter of all that training never touches: CLIP, and SAM's own weights if frozen.

        SAM's norms, the depth axis of the relative positions, and whatever SAM does not have are trained.
        """
        return [(name, p) for name, p in self.named_parameters() if self.tower(name) is not None]

    def tower(self, name: str) -> str | None:
        """The frozen tower, "clip" or "sam", that a parameter belongs to; None if it is trained."""
        if name.startswith("clip."):
            return "clip"
        if not self.config.freeze_backbone:
            return None
        if name in ("stem.patch_weight", "stem.patch_bias", "stem.pos_embed"):
            return "sam"
        of_block = name.startswith("encoder.blocks.") and (".attn." in name or ".mlp." in name)
        return "sam" if of_block and not name.endswith("rel_pos_d") else None

    def see(self, image: Tensor, bounds: Tensor) -> VisualFeatures | None:
        """CLIP's view of a crop; frozen, hence cacheable per crop."""
        return None if self.vision is None else self.vision(image, bounds)

    def encode(
        self,
        image: Tensor,
        anatomies: Sequence[Anatomy],
        bounds: Tensor,
        seen: VisualFeatures | None = None,
    ) -> Encoding:
        """The prompt-independent half. SAM's blocks and CLIP look at upright slices; all results are in (x, y, z).

        Args:
            image: (B, 1, X, Y, Z), normalised intensities.
            anatomies: organ and lesion of each crop.
            bounds: (B, 2), the normalised values of the window's ends.
            seen: cached result of `see`.
        """
        seen = self.see(image, bounds) if seen is None else seen
        guide = None
        if self.semantic is not None and seen is not None:
            x, y, z = (n // STRIDE for n in image.shape[2:])
            guidance = self.semantic.guidance(seen, (x, y, z)).transpose(1, 2).flip(1, 2)
            semantic = self.semantic

            def guide(tap: int, tokens: Tensor) -> Tensor:
                return semantic(tap, tokens, guidance)

        features = self.encoder(self.stem(as_pictures(image)), guide)
        *shallow, feature = (as_pictures(one) for one in features)
        tokens = None
        if self.anatomy is not None:
            tokens, text = self.anatomy(anatomies)
            if self.similarity_in is not None and seen is not None:
                size = (feature.shape[2], feature.shape[3], feature.shape[4])
                feature = feature + self.similarity_in(self.anatomy.similarity(text, seen.joint, size))
        return Encoding(
            image=image,
            static=self.decoder.static(shallow, image),
            feature=feature,
            anatomy=tokens,
            clip=None if seen is None else seen.pooled,
        )

    def decode(self, encoding: Encoding, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
        """The prompt-dependent half: logits (B, 1, X, Y, Z), and coarse ones at half the resolution.

        A training step decodes several times. With `checkpointing` none of them keeps its activations, and on a CPU,
        where larger batches gain nothing, crop after crop is decoded.
        """
        if not (self.config.checkpointing and torch.is_grad_enabled()):
            return self._decode(encoding, prompts)
        number = len(encoding.image)
        if number == 1 or encoding.image.is_cuda:
            return recomputed(self._decode, encoding, prompts)
        parts = [recomputed(self._decode, encoding.crop(i), prompts.crop(i)) for i in range(number)]
        return torch.cat([logits for logits, _ in parts]), torch.cat([coarse for _, coarse in parts])

    def _decode(self, encoding: Encoding, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
        feature = encoding.feature
        encoded = self.prompts(prompts, feature, encoding.image)
        if encoded.mask is not None:
            feature = feature + encoded.mask
        size = (feature.shape[2], feature.shape[3], feature.shape[4])
        fused = self.fusion(
            feature,
            self.prompts.position.grid(size),
            (encoded.clicks, encoded.clicks_valid),
            (encoded.box, encoded.box_valid),
            encoding.anatomy,
            encoding.clip,
        )
        return self.decoder(encoding.static, fused, encoding.image, encoded.dense)

    def forward(self, image: Tensor, anatomies: Sequence[Anatomy], bounds: Tensor, prompts: PromptTensors) -> Tensor:
        return self.decode(self.encode(image, anatomies, bounds), prompts)[0]
