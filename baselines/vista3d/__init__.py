"""VISTA3D, by the classes and the point inferer of MONAI."""
