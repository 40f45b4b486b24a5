"""The documentation site: Markdown pages, and the reference from the docstrings.

`make docs` builds it; every warning is an error. It needs no network, and no page loads anything
from elsewhere.
"""

from __future__ import annotations

from dagster_dbtcloud.version import __version__

project = "dagster-dbtcloud"
author = "the authors of dagster-dbtcloud"
html_show_copyright = False
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
# dbt's SQL holds Jinja, which stops the highlighter, and only the highlighter, for a moment.
suppress_warnings = ["misc.highlighting_failure"]

# `page.md#heading` works as it does on a forge, down to third headings.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

nitpicky = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "dagster-dbtcloud"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
