"""Map links to files of the repository: to the page where there is one, else to the file's address.

CHANGELOG.md and CONTRIBUTING.md are included, so that their links start at the root. Without an
address of the repository in pyproject.toml the path is shown as code.
"""

import pathlib
import posixpath
import tomllib

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Pages made from files outside docs/.
PAGES = {
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "README.md": "index",
    "docs/notebooks": "gallery",
    "notebooks": "gallery",
    "benchmarks/results": "results",
}
FOLDERS = {"benchmarks/results/": "results/", "notebooks/": "notebooks/", "docs/": ""}


class RepositoryLinks(SphinxPostTransform):
    """Replace links to files that Sphinx does not know as pages."""

    default_priority = 5  # before references are resolved

    def run(self, **kwargs):
        """Look at the downloads and the unresolved links that MyST makes of paths."""
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link.get("reftype") == "myst":
                self._replace(link)
        for link in list(self.document.findall(addnodes.download_reference)):
            self._replace(link)

    def _replace(self, link):
        target, _, anchor = link["reftarget"].partition("#")
        if target.startswith(str(ROOT)):  # a Markdown file outside of docs, without its suffix
            target = f"{target.removeprefix(f'{ROOT}/')}.md"
            anchor = anchor or link.get("reftargetid") or ""
        folder = posixpath.dirname(f"docs/{self.env.docname}")
        candidates = (posixpath.normpath(f"{folder}/{target}"), posixpath.normpath(target))
        path = next((each for each in candidates if (ROOT / each).exists()), None)
        if not target or path is None:
            return
        page = _page(path)
        if page in self.env.all_docs:
            address = self.app.builder.get_relative_uri(self.env.docname, page)
            new = nodes.reference("", "", *link.children, internal=True)
            new["refuri"] = f"{address}#{anchor}" if anchor else address
        elif repository := _repository():
            new = nodes.reference("", "", *link.children, refuri=f"{repository}/blob/main/{path}")
        else:
            shown = (nodes.Text(" ("), nodes.literal("", path), nodes.Text(")"))
            new = nodes.inline("", "", *link.children, *shown)
        link.replace_self(new)


def _page(path: str) -> str:
    """The page of a file, as Sphinx would call it."""
    if path in PAGES:
        return PAGES[path]
    for folder, pages in FOLDERS.items():
        if path.startswith(folder):
            return pages + path.removeprefix(folder).rpartition(".")[0]
    return path


def _repository() -> str | None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    return next((url for key, url in urls.items() if key.lower() in {"repository", "source"}), None)


def setup(app):
    """Run after all pages are read."""
    app.add_post_transform(RepositoryLinks)
    return {"parallel_read_safe": True}
