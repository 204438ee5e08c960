"""Demonstrations: the container, windows over it, and one module per source format."""

from bet.data.episodes import DataError, Episodes

__all__ = ["DataError", "Episodes"]
