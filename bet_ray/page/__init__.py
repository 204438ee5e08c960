"""What the HTML pages share: one file each, with plotly.js, figures, videos and styles inside, that loads nothing."""

from bet_ray.page.render import render_page

__all__ = ["render_page"]
