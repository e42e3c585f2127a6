"""How the documentation is built: `make docs`."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("PYTHONHASHSEED", "0")

import hcnn  # noqa: E402

project = "hcnn"
author = "the hcnn developers"
copyright = author
release = version = hcnn.__version__

templates_path = ["_templates"]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "mathml",  # these three lie in _ext
    "docstrings",
    "generated",
]
# The page of execution times would ask other hosts for scripts.
exclude_patterns = ["_build", "sg_execution_times.rst", "gallery/sg_execution_times.rst"]
default_role = "py:obj"
smartquotes = False  # they would turn the two hyphens of `--output` into a dash, which no shell understands
html_theme = "furo"
html_title = "hcnn"
html_static_path = ["_static"]
html_extra_path = ["generated/live"]  # pages that run a network in the browser
html_css_files = ["hcnn.css"]
html_js_files = ["tables.js"]
html_math_renderer = "mathml"
numfig = math_numfig = True  # equations count as (chapter.number)
numfig_secnum_depth = 1

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence", "fieldlist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shapes"]
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "plot_gallery": os.environ.get("HCNN_GALLERY", "1") == "1",  # 0: pages without running the examples
    "matplotlib_animations": False,
    "capture_repr": (),  # what is printed, not what a call returned
}
