"""DICOM in and out: scans with their annotations into the layout that the bench reads, and masks as DICOM.

A folder per case holds CT, MR or PET series and annotations (RTSTRUCT, SEG), in any sub-folders. Slices are read and
put in order by GDCM (through SimpleITK), by their positions; a series with missing, doubled or tilted slices is
refused, because a volume of even spacing would put its voxels elsewhere. Annotations are read with pydicom, and
multi-frame objects with highdicom; the extra `dicom` installs both. The result is a folder in the Decathlon's layout.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.8.8.6 (ROI contour), C.8.20.2 (segmentation image).
"""

from benchmarks.data.dicom.annotation import Choice, Drawing, choose, only_scan, read_annotation
from benchmarks.data.dicom.convert import convert, labels_of
from benchmarks.data.dicom.files import Contents, ScanFiles, look, scan_in_file
from benchmarks.data.dicom.series import Series, read_series

__all__ = [
    "Choice",
    "Contents",
    "Drawing",
    "ScanFiles",
    "Series",
    "choose",
    "convert",
    "labels_of",
    "look",
    "only_scan",
    "read_annotation",
    "read_series",
    "scan_in_file",
]
