from __future__ import annotations

import pytest

from endpoint_views import SECRET, answer
from language_server import serve


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serve() as state:
        state.answer = answer
        yield state
