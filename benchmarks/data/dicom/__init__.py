"""DICOM into the layout that the bench reads: an image series with an RTSTRUCT or a SEG per case.

A folder per case holds one CT series and one annotation, in any sub-folders. Slices are read and put in order
by GDCM (through SimpleITK), by their positions; a series with missing, doubled or tilted slices is refused,
because a volume of even spacing would put its voxels elsewhere. Annotations are read with pydicom, which the
extra `dicom` installs. The result is a folder in the Decathlon's layout.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.8.8.6 (ROI contour), C.8.20.2 (segmentation image).
"""

from benchmarks.data.dicom.annotation import read_annotation
from benchmarks.data.dicom.convert import convert, labels_of
from benchmarks.data.dicom.files import find
from benchmarks.data.dicom.series import Series, read_series

__all__ = ["Series", "convert", "find", "labels_of", "read_annotation", "read_series"]
