"""Reference floor: region growing from the click (SimpleITK)."""
