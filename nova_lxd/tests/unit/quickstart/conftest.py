# SPDX-License-Identifier: Apache-2.0
"""Makes tools/cloud importable as the package ``cloud``, as the quickstart script does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "tools"))
