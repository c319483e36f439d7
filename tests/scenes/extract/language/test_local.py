"""True classes of transformers with tiny weights: a LLaVA that has learned two captions, and a random LLaMA."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError, StoppedError
from spatialboost.scenes.extract.language import local, prompts
from spatialboost.scenes.extract.language.requests import make_requests
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.registry import open_extractor
from spatialboost.scenes.questions.checker import check_against_cues
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from tiny_cues import tiny_cues
from tiny_language_models import save_llama, save_llava

TRUE = "A bare white room. The red box is to the left of the blue ball."
FALSE = "A dark grey room. The red box is behind the green cone."


def view(value: int):
    return replace(tiny_cues(), image_HW3=np.full((96, 128, 3), value, np.uint8), source=f"brightness {value}")


def prompt_of(cues, **options) -> str:
    (request,) = make_requests([PartialCues.of(cues)], what="caption", pairs=1, images=True)
    return f"{prompts.SYSTEM}\n\n{request.prompt}"


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    save_llava(folder, prompt_of(view(0)), {250: TRUE, 10: FALSE}, steps=55)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    save_llama(folder, [prompt_of(view(0)), TRUE])
    return folder


def test_captions_of_a_batch_are_those_of_each_image_and_are_checked(llava):
    extractor = open_extractor("local-vlm", model=str(llava), what="caption", device="cpu")
    views = [view(value) for value in (250, 10, 250, 10)]
    found = [Extracted(views, [extractor])[i] for i in range(4)]
    assert [cues.facts.get("caption") for cues in found] == [TRUE, "A dark grey room."] * 2
    problem = "caption: it states something about geometry that the layout does not show"
    assert [cues.facts.get("dropped") for cues in found] == [None, {problem: 1}] * 2
    alone = [Extracted([each], [extractor])[0].facts for each in views]
    assert alone == [cues.facts for cues in found]
    talk = build_conversation(found[0], seed=0, plan=TurnPlan({"depth": 1, "caption": 1}))
    assert talk.messages[-1]["content"] == TRUE
    assert check_against_cues(talk.messages, talk.meta, found[0]) == []
    assert extractor.provenance["model"] == llava.name
    assert extractor.provenance["revision"].startswith("sha256:")
    assert extractor.name.startswith("caption of ") and extractor.name.endswith(" float32")


def test_prompts_of_different_length_are_answered_as_each_alone(llava):
    """Facts about more objects make longer prompts, which are padded on the left."""
    extractor = open_extractor("local-vlm", model=str(llava), what="caption", device="cpu")
    few = replace(view(250), objects=tiny_cues().objects[:1])
    for together in ([view(250), few], [few, view(250)]):
        batch = extractor([PartialCues.of(each) for each in together])
        assert batch == [extractor([PartialCues.of(each)])[0] for each in together]


def test_text_models_get_what_is_known(llama, monkeypatch):
    monkeypatch.setattr(local, "MAX_TOKENS", {"caption": 12, "vqa": 12})
    extractor = open_extractor("local-vlm", model=str(llama), images=False, pairs=1, device="cpu", batch_size=2)
    views = [PartialCues.of(view(value)) for value in (0, 1, 2)]
    first, second = extractor(views), extractor(views)
    assert first == second
    for addition in first:  # a random model writes nothing that can be used
        assert {"vqa: it is cut off", "vqa: it is not JSON"} & addition["facts"]["dropped"].keys()


def test_wrong_options_and_models_are_one_clear_line(llama, tmp_path):
    with pytest.raises(SpatialBoostError, match="needs a model: local-vlm:model=FOLDER_OR_HUB_ID"):
        open_extractor("local-vlm")
    with pytest.raises(SpatialBoostError, match="what is 'all'; expected caption, vqa or both"):
        open_extractor("local-vlm", model=str(llama), what="all")
    with pytest.raises(SpatialBoostError, match="is a llama, from which no AutoModelForImageTextToText can be built"):
        open_extractor("local-vlm", model=str(llama))
    with pytest.raises(SpatialBoostError, match="batch_size is 0; expected at least 1"):
        open_extractor("local-vlm", model=str(llama), images=False, batch_size=0)
    save_llama(tmp_path, ["a"], template=None)
    extractor = open_extractor("local-vlm", model=str(tmp_path), images=False, device="cpu")
    with pytest.raises(StoppedError, match="has no chat template: give a model that was trained to answer"):
        Extracted([view(0)], [extractor])[0]
