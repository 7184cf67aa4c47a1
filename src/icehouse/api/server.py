"""What a server says of itself: the parameters that a client obeys, and errors."""

import msgspec


class ServerParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``GET /api/v1/server``: how this server wants NARs cut, compressed and sent."""

    version: str
    public_url: str
    chunk_min_bytes: int
    chunk_average_bytes: int
    chunk_max_bytes: int
    chunk_normalization: int
    zstd_level: int
    pack_bytes: int
    """Frames of one upload together, at most; the index and one last frame may come on top."""
    max_hash_parts: int
    """Hash parts that one ``missing`` request may name."""
    max_identities: int
    """Chunk identities that one ``chunks/missing`` request may name."""
    max_recipe_bytes: int
    """Recipes that one ``nars`` request may carry, together, encoded."""
    max_nars: int
    max_paths: int
    max_nar_bytes: int


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error of the API (``application/problem+json``, RFC 9457)."""

    title: str
    status: int
    detail: str
    request_id: str
