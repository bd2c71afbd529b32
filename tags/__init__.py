"""TAGS, 3D Tumor-Adaptive Guidance for SAM: an independent open implementation."""

import warnings

# open_clip brings timm, whose use of `torch.jit.interface` torch warns of: nobody who reads our output can mend it.
warnings.filterwarnings("ignore", message="`torch.jit.interface` is deprecated", category=FutureWarning)
