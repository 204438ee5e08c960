"""The engine: where and when Behavior Transformers are trained, rolled out and measured."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bet_ray.evaluation import LazyPool, PoolShape, evaluate

__all__ = ["LazyPool", "PoolShape", "evaluate"]

# Ray prints a paragraph whenever a worker dies. We say so in one line. Ray reads this when it is imported.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task")


def __getattr__(name: str) -> Any:
    """Import on first use: `bet-ray --help` should not wait for Ray and torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bet_ray import evaluation

    return getattr(evaluation, name)
