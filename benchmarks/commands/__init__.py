"""The commands of `tags-bench`: options, one call of the API, print."""
