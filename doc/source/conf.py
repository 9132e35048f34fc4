# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration; the reference tables are made from the code when the pages are built."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent / "_ext"))

project = "nova-lxd"
copyright = "the nova-lxd developers"
extensions = ["openstackdocstheme", "coverage_tables", "driver_tables"]
html_theme = "openstackdocs"
openstackdocs_repo_name = "openstack/nova-lxd"
openstackdocs_auto_name = False
openstackdocs_use_storyboard = False
openstackdocs_pdf_link = False
exclude_patterns = ["_ext"]
root_doc = "index"
nitpicky = False
smartquotes = False  # options begin with two dashes
