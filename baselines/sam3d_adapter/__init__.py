"""3DSAM-adapter (Gong et al. 2023): SAM-B made volumetric by adapters, prompted by positive clicks."""
