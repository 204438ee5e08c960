"""Numbers as people read them."""


def counted(number: int, what: str, plural: str | None = None) -> str:
    """`counted(1, "epoch")` is "1 epoch", `counted(25176, "step")` "25,176 steps"."""
    return f"{number:,} {what if number == 1 else plural or f'{what}s'}"
