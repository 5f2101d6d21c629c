"""Sphinx configuration; `make docs` builds with warnings as errors and without a network."""

from docutils.nodes import math_block

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
autodoc_mock_imports = ["cvxpylayers"]  # of which `compat.cvxpylayers` imports a base class
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(torch|numpy|scipy)\..*")]  # other projects' names: no inventory is fetched
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"optlayers {version}"


def _number_equations_by_label(app, env):
    for label, (page, _) in list(env.get_domain("math").equations.items()):
        env.get_domain("math").equations[label] = (page, label)


def _show_labels(app, doctree, page):
    for equation in doctree.findall(math_block):
        if equation.get("label"):
            equation["number"] = equation["label"]


def setup(app):
    """Show a label such as (IPM-3), which is what comments in the code cite, as the number of its equation."""
    app.connect("env-updated", _number_equations_by_label)
    app.connect("doctree-resolved", _show_labels)
