from __future__ import annotations

import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.language.config import LLMConfig
from spatialboost.teachers.language.teacher import build_llm


def test_llm_arguments_are_checked():
    chats = [[{"role": "user", "content": "How deep?"}, {"role": "assistant", "content": "Deep."}]]
    llm, _ = build_llm(LLMConfig(name="small", kwargs={"width": 32, "layers": 1, "heads": 2}), chats, seed=3)
    assert llm.config.n_embd == 32
    with pytest.raises(SpatialBoostError, match=r'llm.kwargs are wrong for "small": .*depth'):
        build_llm(LLMConfig(name="small", kwargs={"depth": 1}), chats, seed=3)
