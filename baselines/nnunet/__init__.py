"""nnU-Net v2, the real `nnunetv2` package behind the bench's interface."""
