"""Sphinx configuration; `make docs` builds with warnings as errors and without a network."""

import optlayers

project = "optlayers"
author = "the optlayers developers"
copyright = "the optlayers developers"
version = release = optlayers.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Shapes, dtypes and errors stand in the docstring; leaving annotations out of signatures is also what lets every
# explicit reference be checked (nitpicky) without a list of exceptions for other libraries' types.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
nitpicky = True
napoleon_numpy_docstring = False

# A label in the theory pages, such as (IPM-3), is what comments in the code cite: show it as the equation's number.
math_numfig = False

html_theme = "furo"
html_title = f"optlayers {version}"
