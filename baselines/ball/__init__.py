"""Reference floor: a ball around the click whose radius is the median of the training lesions."""
