"""The line that says what has run the network, and how to have it run otherwise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xception.cli.screen import say

if TYPE_CHECKING:
    from xception.inference.runtimes import Road

log = logging.getLogger(__name__)


def tell(road: Road) -> None:
    """On stderr; of torch for short work only with --verbose."""
    line = f"run by {road}; another: --runtime auto|torch|onnxruntime|openvino"
    if road.is_news:
        say(line)
    else:
        log.info(line)
