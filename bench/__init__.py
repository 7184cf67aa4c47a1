"""Measurements of icehouse beside nginx and Nix on one machine: what is measured, on what, and what came out."""
