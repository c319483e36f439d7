"""Pull and push with the real client, over HTTP, against a Hub on loopback (`hub_server.py`).

`HF_HUB_DISABLE_XET` is set: xet is a protocol of its own, between compiled code and another server; the same calls of
ours then go by LFS.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import deque
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from torch import nn

import spatialboost as sb
from deltas import CONFIG, INDEX, WEIGHTS, refused, save_tiny
from host_models import DEPTH, HEADS, HOSTS, SIZE, WIDTH, images, output, perturb
from hub_server import OLD_HUB, OWNER, READER, STRANGER, Hub
from spatialboost.weights.hub import HubOptions
from spatialboost.weights.read import read_delta

REPO = "me/delta"


def tiny(seed: int = 2) -> nn.Module:
    return perturb(sb.boost(HOSTS["timm"].make()), seed=seed)


def pull(repo: str = REPO, **options) -> nn.Module:
    return sb.load_pretrained(HOSTS["timm"].make(), repo, **options)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for (_, p), (_, q) in zip(sb.named_parameters(a), sb.named_parameters(b), strict=True))


# --- there and back


def test_push_and_pull(hub):
    url = sb.push_to_hub(tiny(), REPO, training={"steps": 3}, commit_message="First")
    repo = hub.repos[REPO]
    assert url == f"{hub.endpoint}/{REPO}/commit/{repo.branches['main']}"
    assert set(repo.commits[repo.branches["main"]]) == {".gitattributes", WEIGHTS, CONFIG, "README.md"}
    assert repo.messages == ["initial commit", "First"] and not repo.private
    hub.log.clear()
    assert equal(pull(), tiny())
    assert [name for name in hub.downloads() if re.fullmatch("[0-9a-f]{64}", name) is None] == [CONFIG]
    assert len(hub.downloads()) == 2  # the config, and the weights from where the redirect leads: no card


def test_nothing_is_downloaded_twice(hub):
    sb.push_to_hub(tiny(), REPO)
    pull()
    hub.log.clear()
    assert equal(pull(), tiny())
    assert hub.downloads() == []
    pull(force_download=True)
    assert len(hub.downloads()) == 2


def test_shards_there_and_back(hub):
    sb.push_to_hub(tiny(), REPO, max_shard_size="10KB")
    files = set(hub.repos[REPO].commits[hub.repos[REPO].branches["main"]])
    assert INDEX in files and WEIGHTS not in files and sum(name.startswith("model-") for name in files) > 2
    assert equal(pull(), tiny())
    assert equal(pull(local_files_only=True), tiny())
    # the next push takes the shards of the one before away, in the same commit
    sb.push_to_hub(tiny(5), REPO)
    assert set(hub.repos[REPO].commits[hub.repos[REPO].branches["main"]]) == {
        ".gitattributes", WEIGHTS, CONFIG, "README.md",
    }  # fmt: skip
    assert len(hub.repos[REPO].messages) == 3 and equal(pull(), tiny(5))


def test_revisions(hub):
    sb.push_to_hub(tiny(1), REPO)
    first = hub.repos[REPO].branches["main"]
    sb.push_to_hub(tiny(3), REPO, revision="trial")
    sb.push_to_hub(tiny(4), REPO)
    for revision, seed in (("trial", 3), (first, 1), (None, 4), ("main", 4)):
        assert equal(pull(revision=revision), tiny(seed))
    with pytest.raises(sb.SpatialBoostError, match="but not this revision: check `revision`"):
        pull(revision="nowhere")


def test_subfolder(hub):
    sb.push_to_hub(tiny(1), REPO)
    sb.push_to_hub(tiny(3), REPO, subfolder="large", max_shard_size="10KB")
    assert equal(pull(subfolder="large"), tiny(3)) and equal(pull(), tiny(1))
    with pytest.raises(sb.SpatialBoostError, match=r"'me/delta' has no config.json in 'small'"):
        pull(subfolder="small")


@pytest.mark.parametrize("name", ["large[12]", "large*", "large?"])
def test_a_subfolders_name_is_no_pattern(hub, name):
    """As a pattern, it would match files of the other folder, and the push would delete them."""
    sb.push_to_hub(tiny(1), REPO, subfolder="large1", max_shard_size="10KB")
    sb.push_to_hub(tiny(3), REPO, subfolder=name, max_shard_size="10KB")
    sb.push_to_hub(tiny(4), REPO, subfolder=name)
    assert equal(pull(subfolder="large1"), tiny(1)) and equal(pull(subfolder=name), tiny(4))
    files = set(hub.repos[REPO].commits[hub.repos[REPO].branches["main"]])
    assert f"{name}/{INDEX}" not in files and f"large1/{INDEX}" in files


def test_pull_requests(hub, monkeypatch):
    sb.push_to_hub(tiny(1), REPO)
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(sb.SpatialBoostError, match="403"):
        sb.push_to_hub(tiny(3), REPO)
    monkeypatch.setenv("HF_TOKEN", OWNER)
    url = sb.push_to_hub(tiny(3), REPO, create_pr=True, commit_description="Better.")
    assert url == f"{hub.endpoint}/{REPO}/discussions/1"
    assert equal(pull(), tiny(1)) and equal(pull(revision="refs/pr/1"), tiny(3))
    with pytest.raises(sb.SpatialBoostError, match="leave revision='trial' out"):
        sb.push_to_hub(tiny(3), REPO, create_pr=True, revision="trial")


def test_a_push_between_two_downloads_mixes_nothing(hub, monkeypatch):
    sb.push_to_hub(tiny(1), REPO)
    from spatialboost.weights import read as delta

    fetch_file = delta.fetch_file

    def meanwhile(*args, **options):
        sb.push_to_hub(tiny(3), REPO)
        return fetch_file(*args, **options)

    monkeypatch.setattr(delta, "fetch_file", meanwhile)
    assert equal(pull(), tiny(1))


# --- who may


def test_private_repositories(hub):
    sb.push_to_hub(tiny(), REPO, private=True)
    assert hub.repos[REPO].private
    assert equal(pull(token=READER), tiny())
    assert hub.tokens_on_cdn == 0
    for token in (STRANGER, False, "hf_wrong"):
        with pytest.raises(
            sb.SpatialBoostError, match=r"(for a private one log in|Log in) \(`hf auth login`\)"
        ) as caught:
            pull(token=token, force_download=True)
        assert str(token) not in str(caught.value)


def test_tokens_as_they_are_read_from_a_file(hub):
    sb.push_to_hub(tiny(), REPO, private=True, token=f"{OWNER}\n")
    assert equal(pull(token=f" {READER}\r\n"), tiny())
    for token in ("hf_\u00e9secret", "hf_secret\nX-Header: 1", "hf secret", ""):
        for act in (
            lambda token=token: pull(token=token),
            lambda token=token: sb.push_to_hub(tiny(), REPO, token=token),
        ):
            with pytest.raises(sb.SpatialBoostError, match="`token` is empty or has") as caught:
                act()
            assert "secret" not in str(caught.value)


def test_gated_repositories(hub):
    sb.push_to_hub(tiny(), REPO)
    hub.repos[REPO].gated = True
    for token in (STRANGER, False):
        with pytest.raises(sb.SpatialBoostError, match="Its owner must give you access"):
            pull(token=token)
    assert equal(pull(token=READER), tiny())


def test_pushes_that_are_refused(hub):
    for token, status in ((STRANGER, 403), (False, 401)):
        with pytest.raises(sb.SpatialBoostError, match=f"could not push to 'me/delta': .*{status}"):
            sb.push_to_hub(tiny(), REPO, token=token)
    assert hub.repos == {}


def test_a_card_that_the_hub_does_not_accept(hub, monkeypatch):
    sb.push_to_hub(tiny(), REPO, license="a licence that nobody knows")  # as `other`, with its name
    monkeypatch.setattr("spatialboost.weights.card._licence", lambda name: {"license": name})
    with pytest.raises(sb.SpatialBoostError, match=r"could not push to 'me/delta': (?s:.)*\"license\" must be one of"):
        sb.push_to_hub(tiny(), REPO, license="a licence that nobody knows")
    assert len(hub.repos[REPO].messages) == 2


def test_a_repository_that_is_not_there(hub):
    refused("me/nothing", "is not a folder here, and config.json could not be downloaded from the Hub")


def test_repositories_that_hold_something_else(hub):
    sb.push_to_hub(tiny(), REPO)
    repo = hub.repos[REPO]
    repo.commit({CONFIG: b'{"model_type": "vit"}', WEIGHTS: b""}, "a model")
    hub.log.clear()
    refused(REPO, "has format_version=None; expected 1 or more")
    assert hub.downloads() == [CONFIG]  # nothing large was downloaded for it
    repo.commit({name: data for name, data in repo.commits[list(repo.commits)[1]].items() if name != WEIGHTS}, "half")
    refused(REPO, f"has neither {WEIGHTS} nor {INDEX}")


# --- the network fails


def test_a_download_that_is_cut_off_goes_on(hub):
    sb.push_to_hub(tiny(), REPO)
    hub.cut = deque([5000, 3000])
    hub.log.clear()
    if OLD_HUB:  # it goes on when it is called again, not within one call
        for _ in range(2):
            refused(REPO, "Try again; what has been downloaded is kept")
    assert equal(pull(), tiny())
    assert len([name for name in hub.downloads() if name != CONFIG]) == 3 and not hub.cut  # three parts of one file


def test_a_download_that_never_ends(hub, monkeypatch):
    sb.push_to_hub(tiny(), REPO)
    hub.cut = deque([0] * 20)
    refused(
        REPO, "model.safetensors could not be downloaded from the Hub: .* Try again; what has been downloaded is kept"
    )
    hub.cut.clear()
    assert equal(pull(), tiny())


def test_the_hub_is_down(hub):
    sb.push_to_hub(tiny(), REPO)
    hub.fail = {"/resolve/": 500}
    refused(REPO, "500")
    hub.fail = {}
    pull()
    hub.fail = {"/resolve/": 500}
    assert equal(pull(), tiny())  # from the cache
    hub.fail = {"/commit/": 500}
    with pytest.raises(sb.SpatialBoostError, match=r"could not push to 'me/delta'.*500"):
        sb.push_to_hub(tiny(4), REPO)


def test_a_damaged_download_is_found(hub):
    sb.push_to_hub(tiny(), REPO)
    repo = hub.repos[REPO]
    files = dict(repo.commits[repo.branches["main"]])
    files[WEIGHTS] = files[WEIGHTS][:-5] + bytes([files[WEIGHTS][-5] ^ 1]) + files[WEIGHTS][-4:]
    repo.commit(files, "damage")
    refused(REPO, "is damaged: the checksum of layers.1")


# --- without network


@pytest.mark.parametrize("limit", ["5GB", "10KB"])
def test_offline_with_a_filled_cache(hub, monkeypatch, limit):
    sb.push_to_hub(tiny(), REPO, max_shard_size=limit)
    pull()
    hub.log.clear()
    assert equal(pull(local_files_only=True), tiny())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if OLD_HUB:
        huggingface_hub.utils.reset_sessions()  # its open sessions do not look at the constant
    assert equal(pull(), tiny())
    assert hub.log == []


def test_force_download_contradicts_local_files_only(hub):
    with pytest.raises(sb.SpatialBoostError, match="leave one out"):
        pull(local_files_only=True, force_download=True)


def test_offline_with_an_empty_cache(hub, tmp_path):
    sb.push_to_hub(tiny(), REPO)
    hub.log.clear()
    refused(REPO, "It is not in the cache", local_files_only=True, cache_dir=tmp_path / "empty")
    assert hub.log == []


def test_the_server_is_gone(hub, monkeypatch):
    sb.push_to_hub(tiny(), REPO)
    pull()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    assert equal(pull(), tiny())
    refused("me/another", "could not be downloaded from the Hub")
    with pytest.raises(sb.SpatialBoostError, match="could not push to"):
        sb.push_to_hub(tiny(), REPO)


# --- nothing is sent before it is checked


def test_push_checks_before_it_asks_the_hub(hub):
    with pytest.raises(sb.SpatialBoostError, match="is not boosted"):
        sb.push_to_hub(HOSTS["timm"].make(), REPO)
    with pytest.raises(sb.SpatialBoostError, match="could not push to 'not a name'"):
        sb.push_to_hub(tiny(), "not a name")
    for subfolder in ("../up", "/etc", "a\\b"):
        with pytest.raises(sb.SpatialBoostError, match="leads out of the repository"):
            sb.push_to_hub(tiny(), REPO, subfolder=subfolder)
    assert hub.log == []


def test_a_damaged_folder_is_not_pushed(hub, tmp_path):
    from spatialboost.weights.pretrained import push_folder

    folder = save_tiny(tmp_path / "delta")
    raw = bytearray((folder / WEIGHTS).read_bytes())
    raw[-9] ^= 4
    (folder / WEIGHTS).write_bytes(raw)
    with pytest.raises(sb.SpatialBoostError, match="is damaged"):
        push_folder(folder, REPO)
    assert hub.log == []


# --- the base as well


def test_from_pretrained_with_a_base_that_timm_gets_from_the_hub(hub, tmp_path):
    timm = pytest.importorskip("timm")
    options = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS, "img_size": SIZE, "num_classes": 0}
    base = timm.create_model("vit_tiny_patch16_224", **options).eval()
    timm.models.push_to_hf_hub(base, "me/encoder", model_args=options)
    names = {"me/delta": None, "me/named": "me/encoder", "me/prefixed": "hf-hub:me/encoder"}
    pulled = timm.create_model("hf-hub:me/encoder", pretrained=True, cache_dir=tmp_path / "own").eval()
    expected = perturb(sb.boost(pulled))
    for repo, name in names.items():
        sb.push_to_hub(expected, repo, base=name)
    for repo in names:
        built = sb.from_pretrained(repo, cache_dir=tmp_path / "fresh")
        assert not built.training
        with torch.no_grad():
            assert torch.equal(output(built, images()), output(expected, images()))
    assert read_delta("me/delta", HubOptions()).config["base_model"]["hub_id"] == "me/encoder"


def test_from_pretrained_with_a_base_of_transformers(hub, tmp_path):
    base = HOSTS["siglip"].make()
    base.push_to_hub("me/siglip", private=True)
    assert hub.repos["me/siglip"].private
    pulled = type(base).from_pretrained("me/siglip", cache_dir=tmp_path / "own").eval()
    trained = perturb(sb.boost(pulled))
    commit = hub.repos["me/siglip"].branches["main"]
    sb.push_to_hub(trained, REPO, base=f"me/siglip@{commit}")
    base_model = read_delta(REPO, HubOptions()).config["base_model"]
    assert base_model["name"] == base_model["hub_id"] == "me/siglip" and base_model["revision"] == commit
    hub.repos["me/siglip"].commit({}, "everything is gone from the main branch")
    built = sb.from_pretrained(REPO, token=READER, cache_dir=tmp_path / "fresh")
    with torch.no_grad():
        assert torch.equal(output(built, images()), output(trained, images()))
    hub.log.clear()
    sb.from_pretrained(REPO, local_files_only=True, cache_dir=tmp_path / "fresh")
    assert hub.log == []
    with pytest.raises(sb.SpatialBoostError, match=r"the base 'me/siglip' of the delta: cannot get .*config\.json"):
        sb.from_pretrained(REPO, token=STRANGER, cache_dir=tmp_path / "strange")


# --- the command line


def command(hub: Hub, tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": OWNER,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "COLUMNS": "120",
    }
    line = [sys.executable, "-m", "spatialboost.cli", *map(str, arguments)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)


def test_push_and_info_from_the_command_line(hub, tmp_path):
    folder = save_tiny(tmp_path / "delta")
    done = command(hub, tmp_path, "push", folder, REPO, "--private", "--message", "By hand")
    assert done.returncode == 0, done.stderr
    repo = hub.repos[REPO]
    assert done.stdout.strip().endswith(f"/commit/{repo.branches['main']}")
    assert repo.private and repo.messages[-1] == "By hand"
    hub.log.clear()
    done = command(hub, tmp_path, "info", REPO)
    assert done.returncode == 0, done.stderr
    assert "vit_tiny_patch16_224" in done.stdout and "0.50" in done.stdout
    assert not any(name == WEIGHTS or re.fullmatch("[0-9a-f]{64}", name) for name in hub.downloads())
    done = command(hub, tmp_path, "info", "me/nothing")
    assert done.returncode == 2 and "error: 'me/nothing' is not a folder here" in done.stderr
