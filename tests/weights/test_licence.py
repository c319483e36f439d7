"""The licence of the base goes along with a delta: its text in an upload, its address in the card."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

import spatialboost as sb
from host_models import HOSTS
from hub_server import Repo
from spatialboost.weights.licence import licence_address

REPO, BASE = "me/delta", "meta/dinov3"


def boosted():
    return sb.boost(HOSTS["dinov3"].make())


def uploaded(hub) -> dict[str, bytes]:
    repo = hub.repos[REPO]
    return repo.commits[repo.branches["main"]]


def test_the_text_of_the_base_is_shipped(hub):
    hub.repos[BASE] = Repo(gated=True)
    hub.repos[BASE].commit({"LICENSE.md": b"DINOv3 License", "model.safetensors": b"..."}, "base")
    sb.push_to_hub(boosted(), REPO, base=BASE, license="dinov3-license")
    assert uploaded(hub)["LICENSE.md"] == b"DINOv3 License"
    card = ModelCard(uploaded(hub)["README.md"].decode())
    assert card.data.license_link == licence_address("dinov3-license") and card.data.license_link in card.text


def test_a_text_beside_the_delta_comes_first(hub, tmp_path):
    hub.repos[BASE] = Repo()
    hub.repos[BASE].commit({"LICENSE.md": b"of the base"}, "base")
    folder = sb.save_pretrained(boosted(), tmp_path / "delta", base=BASE)
    (folder / "LICENSE").write_text("mine")
    (folder / "LICENSE-notes.py").mkdir()
    sb.weights.pretrained.push_folder(folder, REPO)
    assert uploaded(hub)["LICENSE"] == b"mine" and "LICENSE.md" not in uploaded(hub)
    sb.load_pretrained(HOSTS["dinov3"].make(), folder)  # a file beside it does not disturb a delta


@pytest.mark.parametrize("known", [True, False])
def test_where_it_stands_is_said_if_there_is_no_text(hub, caplog, known):
    if known:
        hub.repos[BASE] = Repo()
        hub.repos[BASE].commit({"README.md": b"# base"}, "base")
    sb.push_to_hub(boosted(), REPO, base=BASE, license="apache-2.0")
    assert not [name for name in uploaded(hub) if name.startswith("LICEN")]
    assert "it stands at https://www.apache.org/licenses/LICENSE-2.0" in caplog.text
    assert ("could not be fetched" in caplog.text) is not known


def test_addresses():
    assert licence_address("CC-BY-NC-4.0") == "https://creativecommons.org/licenses/by-nc/4.0/legalcode"
    assert licence_address("a licence that nobody knows") is licence_address(None) is licence_address(3) is None
