"""SegVol (Du et al. 2023): a ViT over whole-body CT with text, click and box prompts."""
