# SPDX-License-Identifier: Apache-2.0
"""Runs tests in a machine with another kernel than the host's: User Mode Linux, no KVM needed."""
