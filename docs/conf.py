"""How Sphinx makes the documentation site (`make docs`) of the pages in this folder. It loads nothing from the network,
and the search works from the disk."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpal_cli import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "hpal"
author = "The hpal developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
include_patterns = ["**.md"]
html_theme = "furo"
html_title = f"hpal {release}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False

# Links to a heading are those of GitHub, which shows the same pages.
myst_heading_anchors = 4

# Docstrings are written in Markdown's manner: what is between backticks is code.
default_role = "code"
# `prepare`, not `hpal_cli.library.prepare`: the calls are those of `import hpal_cli as hpal`.
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False

# A block without a language, such as a formula, is not highlighted.
highlight_language = "none"


def add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Puts the pages that index.md lists into the navigation, under the headings that they stand under there. GitHub
    would show a `toctree` as code, so none is written in the page."""
    if name != root_doc:
        return
    trees = []
    for section in re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0]
        pages = [page.removesuffix(".md") for page in re.findall(r"^- .*?\]\((\S+\.md)\)", section, re.MULTILINE)]
        trees += ["```{toctree}", ":hidden:", f":caption: {heading}", "", *pages, "```", ""]
    source[0] += "\n" + "\n".join(trees)


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
