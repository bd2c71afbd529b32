"""SAM ViT-B, slice by slice."""
