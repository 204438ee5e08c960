"""The engine: where and when Behavior Transformers are trained, rolled out and measured."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bet_ray.evaluation import evaluate

__all__ = ["evaluate"]

# Ray prints a paragraph whenever a worker dies. We say so in one line. Ray reads this when it is imported.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task")


def __getattr__(name: str) -> Any:
    """Import on first use: `bet-ray --help` should not wait for Ray and torch."""
    if name != "evaluate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bet_ray.evaluation import evaluate

    return evaluate
