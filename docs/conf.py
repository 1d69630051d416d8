"""Settings of the site.

Sphinx rather than mkdocs: docstrings keep their RST formulas and become a page each by autodoc, a
reference to a missing name fails the build, and myst-nb executes notebooks from a cache.
"""

import pathlib
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "_extensions"))

_project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
project, release = _project["name"], _project["version"]
copyright = "the authors of jsoftmax, Apache-2.0"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
    "myst_nb",
    # Ours, one idea a file.
    "docstrings",
    "gallery",
    "mathml",
    "names",
    "offline",
    "public_names",
    "repository_links",
    "signatures",
]
templates_path = ["_templates"]
exclude_patterns = ["_*", "conf.py", "conftest.py", "notebooks/drawing", "notebooks/*.ipynb"]
nitpicky = True
# Types and errors of other packages: without a network there is nothing to link to.
nitpick_ignore_regex = [("py:(class|exc)", r"(?!jsoftmax\.).*")]

# Docstrings. A single backtick is code, which `names` links where it is a public name.
default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # `signatures` shows annotations as the source spells them
autosummary_generate = True
autosummary_generate_overwrite = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Reference"]
python_maximum_signature_line_length = 88
python_display_short_literal_types = True

# Markdown, and notebooks, which are executed once for each change of their code.
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 4
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "docs" / "cache")
nb_execution_timeout = 600  # seconds a cell
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
bibtex_bibfiles = ["references.bib"]

# External links: `make docs-links`. Publishers turn away programs.
linkcheck_ignore = [r"https://doi\.org/.*"]

html_theme = "furo"
html_title = f"jsoftmax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
