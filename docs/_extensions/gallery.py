"""The directive `gallery`: notebooks as cards, each with the title and first picture of its page.

```{gallery}
notebooks/losses
```
"""

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective


class cards(nodes.General, nodes.Element):
    """The place of the cards until all pages are read."""


class Gallery(SphinxDirective):
    """A page name a line."""

    has_content = True

    def run(self):
        """Leave the names; pictures are known when the notebooks are executed."""
        return [cards(pages=list(self.content))]


class FillCards(SphinxPostTransform):
    """Put the cards in their place."""

    default_priority = 5

    def run(self, **kwargs):
        """One card a notebook."""
        for place in list(self.document.findall(cards)):
            made = [self._card(page) for page in place["pages"]]
            place.replace_self(nodes.container("", *made, classes=["gallery"]))

    def _card(self, page):
        address = self.app.builder.get_relative_uri(self.env.docname, page)
        link = nodes.reference("", "", internal=True, refuri=address, classes=["gallery-card"])
        picture = next(self.env.get_doctree(page).findall(nodes.image), None)
        if picture is not None:  # none while notebooks are not executed
            link += nodes.image(uri=picture["uri"], candidates=picture["candidates"], alt="")
        link += nodes.inline("", self.env.titles[page].astext(), classes=["gallery-title"])
        return nodes.paragraph("", "", link)


def setup(app):
    """Register the directive."""
    app.add_node(cards)
    app.add_directive("gallery", Gallery)
    app.add_post_transform(FillCards)
    return {"parallel_read_safe": True}
