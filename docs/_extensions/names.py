"""Link code that is a public name: `entmax`, `jsoftmax.entmax`, `policies.log_prob`.

A bare name in a namespace is linked where it has one meaning: on the pages of its namespace, else
only if no other public name and no method ends in it.
"""

from collections import Counter

from docutils import nodes
from public_names import aliases
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

PAGES = aliases()
COUNTS = Counter(page.rpartition(".")[2] for page in set(PAGES.values()))
BARE = {page.rpartition(".")[2]: page for page in PAGES.values()}
METHODS = {"log_prob", "kl_divergence", "chosen"}  # also methods of distributions, or plain words


class LinkNames(SphinxPostTransform):
    """Put a reference around a literal that is a public name."""

    default_priority = 5  # before references are resolved

    def run(self, **kwargs):
        """Replace literals that stand alone, not those in titles, links and signatures."""
        here = self.env.docname.rpartition("/")[2]
        for literal in list(self.document.findall(nodes.literal)):
            page = _page(literal.astext(), here)
            inside = (nodes.reference, addnodes.pending_xref, nodes.title, addnodes.desc_signature)
            parent = literal.parent
            while parent is not None and not isinstance(parent, inside):
                parent = parent.parent
            if page and parent is None and here != f"jsoftmax.{page}":
                target = f"api/generated/jsoftmax.{page}"
                if target not in self.env.all_docs:
                    continue
                link = nodes.reference("", "", internal=True)
                link["refuri"] = self.app.builder.get_relative_uri(self.env.docname, target)
                literal.replace_self(link)
                link += literal


def _page(text: str, here: str) -> str | None:
    """The public name that `text` means on the page `here`, if any."""
    name = text.removesuffix("()").removeprefix("jsoftmax.")
    if name in PAGES:
        return PAGES[name]
    namespace = here.removeprefix("jsoftmax.").partition(".")[0]
    if f"{namespace}.{name}" in PAGES:
        return PAGES[f"{namespace}.{name}"]
    if COUNTS[name] == 1 and name not in METHODS:
        return BARE[name]
    return None


def _resolve_alias(app, env, node, contnode):
    """{py:func}`jsoftmax.vocabulary.linear_topk` → the page of `jsoftmax.linear_topk`."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].removeprefix("jsoftmax.")
    if PAGES.get(name, name) == name:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"jsoftmax.{PAGES[name]}", node, contnode
    )


def setup(app):
    """Run after all pages are read."""
    app.add_post_transform(LinkNames)
    app.connect("missing-reference", _resolve_alias)
    return {"parallel_read_safe": True}
