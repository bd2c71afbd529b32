"""TotalSegmentator's tumour tasks, run by its authors' package."""
