"""The doors to libraries that fine-tune: each module has a `train` with the same arguments."""
