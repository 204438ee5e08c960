"""A page and a video of demonstrations: pure computation into dataclasses, then one self-contained HTML file."""

from bet_ray.show.render import Shown, show

__all__ = ["Shown", "show"]
