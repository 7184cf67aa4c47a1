"""Routes of the binary cache and of the JSON API."""
