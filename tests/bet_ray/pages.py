"""How tests read our HTML pages."""

import re
from html.parser import HTMLParser

from plotly.offline import get_plotlyjs


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def assert_self_contained(text: str) -> None:
    """The page names nothing to load, and forbids the browser to load anything."""
    tags = Page(text).tags
    for tag, attributes in tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), f"<{tag} {name}>"
        assert tag not in ("link", "iframe", "object", "embed", "base")
    assert text.count(get_plotlyjs()) == 1
    assert not re.search(r"@import|url\(|https?://", text.replace(get_plotlyjs(), ""))
    policies = [attributes["content"] or "" for _, attributes in tags if "http-equiv" in attributes]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")
    assert "http" not in policies[0]
