"""Anatomy-specific prompts: what the text tower knows about an organ and its lesion, as tokens and as a map.

Each name is put into several sentences. M learnable context vectors are inserted after the start token of every
sentence, the frozen text tower embeds them, and their mean is the name's embedding. Any name works: an organ that was
never trained on goes through the same tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from open_clip import tokenize
from open_clip.model import CLIP
from torch import Tensor, nn

Anatomy = tuple[str, str]  # organ and lesion in plain words; either may be empty

ORGAN_SENTENCES = (
    "a computerized tomography of the {organ}.",
    "an axial CT slice through the {organ}.",
    "the healthy {organ} on a contrast-enhanced CT.",
    "{organ}: {description}.",
)
LESION_SENTENCES = (
    "a computerized tomography of a {organ} {lesion}.",
    "an axial CT slice with a {lesion} in the {organ}.",
    "the border of a {organ} {lesion} on a contrast-enhanced CT.",
    "{organ} {lesion}: {description}.",
)
ORGAN_DESCRIPTIONS = {
    "kidney": "a bean-shaped organ beside the spine, about eleven centimetres long, bright after contrast",
    "pancreas": "a slender gland behind the stomach, lobulated, moderately bright",
    "liver": "the largest organ of the abdomen, right upper side, homogeneous, moderately bright",
    "colon": "a gas and stool filled tube framing the abdomen",
    "lung": "a dark, air-filled organ in the chest",
    "soft tissue": "muscle and fat of limbs and trunk",
}
LESION_DESCRIPTIONS = {
    "kidney": "a rounded mass from one to over ten centimetres, less bright than the enhanced cortex, often bulging",
    "pancreas": "an ill-defined mass of two to five centimetres, darker than the gland, often in its head",
    "liver": "one or several rounded spots, from a few millimetres to ten centimetres, darker than the liver",
    "colon": "an irregular thickening of the wall, narrowing the lumen, three to five centimetres",
    "lung": "a dense nodule or mass in dark lung, rounded or spiculated",
    "soft tissue": "a large mass between muscles, often over five centimetres, of mixed density",
}
CYST_DESCRIPTION = "a rounded pocket of fluid with a thin, sharp wall, evenly dark, without contrast medium"
GENERIC_ORGAN = "an organ of the body"
GENERIC_LESION = "an abnormal mass whose density differs from the tissue around it"


def organ_sentences(anatomy: Anatomy) -> list[str]:
    """Sentences about the organ; an unnamed one is "body"."""
    organ = anatomy[0] or "body"
    description = ORGAN_DESCRIPTIONS.get(organ.lower(), GENERIC_ORGAN)
    return [s.format(organ=organ, description=description) for s in ORGAN_SENTENCES]


def lesion_sentences(anatomy: Anatomy) -> list[str]:
    """Sentences about the lesion; an unnamed one is a "tumor"."""
    organ, lesion = anatomy[0] or "body", anatomy[1] or "tumor"
    description = LESION_DESCRIPTIONS.get(organ.lower(), GENERIC_LESION)
    if lesion.lower() == "cyst":
        description = CYST_DESCRIPTION
    return [s.format(organ=organ, lesion=lesion, description=description) for s in LESION_SENTENCES]


class AnatomyPrompts(nn.Module):
    """Organ and lesion tokens, and their similarity with what CLIP sees.

    Args:
        clip: the frozen CLIP model; held, not owned.
        dim: channels of the prompt tokens.
        context: M, learnable vectors per sentence.
    """

    def __init__(self, clip: CLIP, dim: int, context: int) -> None:
        super().__init__()
        self._clip = (clip,)  # in a tuple: not a sub-module
        width = clip.token_embedding.embedding_dim
        embed_dim = clip.visual.output_dim
        self.context = nn.Parameter(torch.randn(context, width) * 0.02)
        self.to_token = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, dim)) for _ in range(2)
        )
        self.similarity_scale = nn.Parameter(torch.tensor(10.0))
        self._cache: dict[tuple[Anatomy, int], Tensor] = {}

    def embed_sentences(self, sentences: Sequence[str]) -> Tensor:
        """(number, E), unit length. The learnable context follows the start token."""
        clip, device = self._clip[0], self.context.device
        room = clip.context_length - len(self.context)
        tokens = tokenize(list(sentences), context_length=room).to(device)
        ends = tokens.argmax(dim=-1)  # the end token has the highest number
        tokens = tokens[:, : int(ends.max()) + 1]  # causal attention: what follows the end changes nothing
        embedded = clip.token_embedding(tokens)
        context = self.context.to(embedded.dtype).expand(len(tokens), -1, -1)
        x = torch.cat((embedded[:, :1], context, embedded[:, 1:]), dim=1)
        x = x + clip.positional_embedding[: x.shape[1]].to(x.dtype)
        mask = clip.attn_mask
        x = clip.transformer(x, attn_mask=None if mask is None else mask[: x.shape[1], : x.shape[1]])
        x = clip.ln_final(x)[torch.arange(len(x), device=device), ends + len(self.context)]
        projection = clip.text_projection
        x = projection(x) if isinstance(projection, nn.Module) else x @ projection
        return F.normalize(x.float(), dim=-1)

    def train(self, mode: bool = True) -> Self:
        """Forget the embedded sentences: a fused optimiser changes parameters without raising their version."""
        if mode:
            self._cache.clear()
        return super().train(mode)

    def text(self, anatomy: Anatomy) -> Tensor:
        """(2, E): organ and lesion, each the mean of its sentences. Cached where nothing can change it."""
        if torch.is_grad_enabled() and self.context.requires_grad and len(self.context):
            return self._embed(anatomy)
        key = (anatomy, self.context._version)
        if key not in self._cache:
            with torch.inference_mode(False), torch.no_grad():
                self._cache = {k: v for k, v in self._cache.items() if k[1] == key[1]}
                self._cache[key] = self._embed(anatomy)
        return self._cache[key].to(self.context.device)

    def _embed(self, anatomy: Anatomy) -> Tensor:
        organ, lesion = organ_sentences(anatomy), lesion_sentences(anatomy)
        embedded = self.embed_sentences(organ + lesion)
        means = torch.stack((embedded[: len(organ)].mean(dim=0), embedded[len(organ) :].mean(dim=0)))
        return F.normalize(means, dim=-1)

    def forward(self, anatomies: Sequence[Anatomy]) -> tuple[Tensor, Tensor]:
        """Tokens (B, 2, dim), organ then lesion, and their text embeddings (B, 2, E)."""
        known = {anatomy: self.text(anatomy) for anatomy in set(anatomies)}
        text = torch.stack([known[anatomy] for anatomy in anatomies])
        tokens = torch.stack([layer(text[:, i]) for i, layer in enumerate(self.to_token)], dim=1)
        return tokens, text

    def similarity(self, text: Tensor, joint: Tensor, size: tuple[int, int, int]) -> Tensor:
        """(B, 2, *size): scaled cosine of each name with CLIP's patch features (B, E, g, g, S)."""
        cosine = torch.einsum("bne,bexyz->bnxyz", text, F.normalize(joint.float(), dim=1))
        return self.similarity_scale * F.interpolate(cosine, size, mode="trilinear", align_corners=False)
