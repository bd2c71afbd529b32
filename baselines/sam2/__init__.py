"""SAM 2 and MedSAM2: a scan as a film, a lesion followed from slice to slice."""
