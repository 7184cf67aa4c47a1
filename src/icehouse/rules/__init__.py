"""Our own decisions and formats. Pure."""
