"""Templates into pages."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bet.metrics import route_name
from bet.wording import counted


def render_page(template: Path, *, title: str, filters: Mapping[str, Callable], **values: Any) -> str:
    """A page from a template that extends `page.html.jinja`; `filters` go beside our own."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "counted": counted, "route_name": route_name, **filters}
    return environment.get_template(template.name).render(plotlyjs=Markup(get_plotlyjs()), title=title, **values)


def _figure(figure: go.Figure) -> Markup:
    # plotly writes <, > and / of any text in its JSON as \u escapes, so no text can end the script element.
    config = {"displayModeBar": False, "responsive": True}
    html = figure.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False, config=config)
    return Markup(html)
