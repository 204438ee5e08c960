"""Numbers as people read them."""

import math


def counted(number: int, what: str, plural: str | None = None) -> str:
    """`counted(1, "epoch")` is "1 epoch", `counted(25176, "step")` "25,176 steps"."""
    return f"{number:,} {what if number == 1 else plural or f'{what}s'}"


def duration(seconds: float) -> str:
    """`4.2 ms`, `1.5 s`, `90 s`, `45 min`, `2.5 h`, `3.1 days`; whole seconds and minutes are rounded up."""
    if seconds < 0.1:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{math.ceil(seconds)} s"
    if seconds < 2 * 3600:
        return f"{math.ceil(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:,.1f} days"
