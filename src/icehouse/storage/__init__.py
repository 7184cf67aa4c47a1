"""Bytes: the `BlobStore` protocol, its backends, and NARs kept as chunks."""
