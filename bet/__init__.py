"""Behavior Transformers: data, training, policies and rollouts. Knows nothing of Ray."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bet import tasks
    from bet.data.episodes import Episodes
    from bet.policy import Policy

__all__ = ["Episodes", "Policy", "tasks"]

_HOMES = {"Episodes": "bet.data.episodes", "Policy": "bet.policy"}


def __getattr__(name: str) -> Any:
    """Import on first use: `bet-ray --help` should not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
