"""Nix's own formats: reading and writing them, with no I/O, clock, randomness or async."""
