# SPDX-License-Identifier: Apache-2.0
"""Builds LXD images: a root file system, its metadata.yaml and templates, packed."""
