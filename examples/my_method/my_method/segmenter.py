"""My network: the scan and a map of the clicks go in, the logit of the lesion comes out."""

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.contestants import Augmentation, Preprocessing, Session, Trainable, TrainingRecipe, prepare

LEFT_AND_RIGHT = Augmentation(flips=(0.5, 0.0, 0.0))  # a patient may be mirrored, but does not stand on the head


class MySegmenter(Trainable):
    def __init__(self, config, device):
        self.config, self.device, width = config, device, config["width"]
        first, wide = nn.Conv3d(2, width, 3, padding=1), nn.Conv3d(width, width, 3, padding=2, dilation=2)
        self.module = nn.Sequential(first, nn.ReLU(), wide, nn.ReLU(), nn.Conv3d(width, 1, 1))

    def recipe(self, target):
        preprocessing = Preprocessing((self.config["spacing"],) * 3, target.window, target.mean, target.std)
        rate = self.config["learning_rate"]
        return TrainingRecipe(preprocessing, (32, 32, 32), 4, rate, augmentation=LEFT_AND_RIGHT)

    def loss(self, batch):
        """Dice, and in the beginning cross-entropy, which leads the way."""
        logits = self.logits(batch.image, [drawn_click(label[0].cpu(), batch.generator) for label in batch.label])
        entropy = F.binary_cross_entropy_with_logits(logits, batch.label)
        found, wanted = logits.sigmoid().flatten(1), batch.label.flatten(1)
        dice = 1 - ((2 * (found * wanted).sum(1) + 1) / (found.sum(1) + wanted.sum(1) + 1)).mean()
        loss = (1 - batch.progress) * entropy + dice
        return loss, {"entropy": entropy.detach(), "dice": dice.detach()}

    def logits(self, image, clicks):
        """Of an image (B, 1, X, Y, Z) with the clicked voxels (N, 3) of each item."""
        axes = torch.meshgrid(*(torch.arange(n) for n in image.shape[2:]), indexing="ij")
        hints = torch.zeros_like(image, device="cpu")
        for hint, voxels in zip(hints, clicks, strict=True):
            for voxel in voxels:
                hint[0] += (-sum((axis - v) ** 2 for axis, v in zip(axes, voxel, strict=True)) / 18).exp()
        return self.module(torch.cat([image, hints.to(image.device)], dim=1))

    def open(self, volume, target):
        return MySession(self, prepare(volume, self.recipe(target).preprocessing))


def drawn_click(label, generator):
    """One voxel of the lesion (1, 3), drawn on the CPU as the generator is; none where there is no lesion."""
    inside = label.nonzero()
    return inside[torch.randint(len(inside), (1,), generator=generator)] if len(inside) else inside


class MySession(Session):
    def __init__(self, segmenter, prepared):
        self.segmenter, self.prepared = segmenter, prepared
        self.image = torch.from_numpy(prepared.array)[None, None].to(segmenter.device)

    @torch.inference_mode()
    def segment(self, prompts):
        clicks = self.prepared.to_prepared([click.position for click in prompts.clicks])
        probability = self.segmenter.logits(self.image, [torch.from_numpy(clicks)]).sigmoid()[0, 0]
        return self.prepared.to_native_mask(probability.cpu().numpy(), self.segmenter.config["threshold"])
