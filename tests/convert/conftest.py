"""Lets the tests of conversion import what they share, _paired.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
