"""What every floor uses: errors, whole files, digests and seeds, downloads, where a number was made."""
