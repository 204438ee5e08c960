"""The engine: where and when Behavior Transformers are trained, rolled out and measured."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bet_ray.evaluation import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    """Import on first use: `bet-ray --help` should not wait for Ray and torch."""
    if name != "evaluate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bet_ray.evaluation import evaluate

    return evaluate
