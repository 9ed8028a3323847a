"""The configuration of the site: `./dev docs`.

The source folder is the root of the repository, so that every relative link works on GitHub and in
the site alike.
"""

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

project = "tensorflow-groupnorm"
author = "The tensorflow-groupnorm authors"
copyright = author  # noqa: A001
release = version = version_of(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    # Of this folder.
    "commands",
    "docstrings",
    "folders",
]

# What is read of the root.
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/**.md",
    "docs/**.md",
    "examples/README.md",
]
exclude_patterns = [
    *(".*", "build", "cc", "cmake", "dist", "python", "tests", "tfgn-study"),
    # Parts of RESULTS.md beside them.
    *("benchmarks/NOTES.md", "benchmarks/machines/*/NOTES.md"),
]

# Warnings are errors: a name that is linked must exist.
nitpicky = True
# What Keras, TensorFlow and Python define, and type aliases.
nitpick_ignore_regex = [
    ("py:.*", r"(?!tensorflow_groupnorm\.).*"),
    ("py:.*", r"tensorflow_groupnorm\._.*"),
]

myst_enable_extensions = ["colon_fence", "html_image"]  # The latter for <img> with a width.
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # The docstrings say more than the hints.
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Call arguments", "params_style"), ("Reference", "References")]
smartquotes_action = "D"  # Dashes; quotes may be of code.

html_theme = "pydata_sphinx_theme"
html_title = project
html_extra_path = ["root"]  # An index.html at the root, which leads to docs/.
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "show_prev_next": False,
    "pygments_light_style": "default",
    "pygments_dark_style": "github-dark",
}
