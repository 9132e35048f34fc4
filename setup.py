# SPDX-License-Identifier: Apache-2.0
"""Build entry; everything declarative is in setup.cfg (pbr)."""

import pathlib
import sys

import setuptools

# Builds run isolated, without this directory on sys.path, but setup.cfg names commands
# from nova_lxd_build.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

setuptools.setup(setup_requires=["pbr>=6.1.1"], pbr=True)
