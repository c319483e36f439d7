from __future__ import annotations

import pytest

from multimodal_frames import frame
from spatialboost.multimodal import Sample


@pytest.fixture
def samples() -> list[Sample]:
    """Two samples with other numbers of frames, of other sizes, and other numbers of turns."""
    first = [
        {"role": "user", "content": "<image><image>How many chairs are there?"},
        {"role": "assistant", "content": "Two"},
    ]
    second = [
        {"role": "user", "content": "<image>Which is nearer, the table or the lamp?"},
        {"role": "assistant", "content": "the lamp."},
        {"role": "user", "content": "Left or right?"},
        {"role": "assistant", "content": "Left"},
    ]
    return [
        Sample(first, [frame(28, 56, 0), frame(56, 28, 1)], "first"),
        Sample(second, [frame(56, 56, 2)], "second"),
    ]
