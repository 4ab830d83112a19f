"""For all tests."""

from __future__ import annotations

import os

# ONNX Runtime reports its use otherwise, from the moment at which a test imports it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
