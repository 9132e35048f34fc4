# SPDX-License-Identifier: Apache-2.0
"""The test command: sets up what the tests need, runs them part by part, and sums up."""
