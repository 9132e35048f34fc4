# SPDX-License-Identifier: Apache-2.0
"""The second boot: what a shutdown leaves and a start brings back."""
