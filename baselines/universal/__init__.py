"""The CLIP-driven Universal Model (Liu et al. 2023): 32 organs and tumours of the abdomen, fully automatic."""
