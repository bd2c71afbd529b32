"""A SAM: image encoder, prompt encoder and mask decoder under their official names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from baselines.sam.decoder import MaskDecoder
from baselines.sam.encoder import EncoderSize, ImageEncoder
from baselines.sam.prompt_encoder import PromptEncoder


@dataclass(frozen=True)
class SamSize:
    """Numbers of a whole SAM.

    Attributes:
        encoder: of the image encoder.
        features: Fourier features per function of the prompt encoder.
        point_embeddings: 4, or 2 for a network without boxes.
        decoder_heads, decoder_hidden, iou_hidden: of the mask decoder.
        aligned: whether points and cells of a volume are encoded in the same order of axes; see `FourierPosition`.
    """

    encoder: EncoderSize
    features: int
    point_embeddings: int = 4
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    iou_hidden: int = 256
    aligned: bool = False


class Sam(nn.Module):
    """The three parts; their call order is the caller's, because an embedding serves many prompts."""

    def __init__(self, size: SamSize) -> None:
        super().__init__()
        encoder = size.encoder
        image, grid = (encoder.image,) * encoder.axes, (encoder.grid,) * encoder.axes
        self.size = size
        self.image_encoder = ImageEncoder(encoder)
        self.prompt_encoder = PromptEncoder(
            encoder.axes, image, grid, encoder.out, size.features, size.point_embeddings, size.aligned
        )
        self.mask_decoder = MaskDecoder(
            encoder.axes, encoder.out, size.decoder_heads, size.decoder_hidden, size.iou_hidden
        )

    def decode(
        self,
        embedding: Tensor,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (B, 1 or 3, 4 × grid) and predicted IoU (B, 1 or 3) for the prompts of B embeddings."""
        sparse, dense = self.prompt_encoder(points, boxes, masks)
        return self.mask_decoder(embedding, self.prompt_encoder.dense_position(), sparse, dense, multimask)
