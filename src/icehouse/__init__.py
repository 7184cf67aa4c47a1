"""Icehouse: a self-hosted binary cache for Nix."""
