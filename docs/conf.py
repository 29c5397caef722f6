"""Sphinx configuration: `make docs` builds the site and runs its notebook."""

import os
import sys
from pathlib import Path

from workbench import __version__

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_extensions"))

# The notebook calls the command `workbench`: that of the Python that builds the site, on data of its own.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ.pop("WORKBENCH_DATA", None)
os.environ["COLUMNS"] = "100"

project = "Workbench"
author = "The Workbench authors"
copyright = "The Workbench authors"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "verb_help"]
exclude_patterns = ["_build", "jupyter_execute", "examples"]
html_theme = "furo"
html_title = f"Workbench {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_excludepatterns = ["notebooks/forecast_pressure_maps.ipynb"]  # its record is not part of Workbench
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
