"""Tokens: cleaned or refused before they are sent, and in no message, wherever the user has put them."""

from __future__ import annotations

import traceback

import pytest
from huggingface_hub import constants
from torch import nn

import spatialboost as sb
from host_models import HOSTS, perturb
from hub_server import OWNER
from spatialboost.encoders import open_encoder
from spatialboost.vlm.llms import load_llm
from spatialboost.weights.hub import HubOptions

REPO = "me/delta"


def tiny() -> nn.Module:
    return perturb(sb.boost(HOSTS["timm"].make()))


def pull(repo: str = REPO, **options) -> nn.Module:
    return sb.load_pretrained(HOSTS["timm"].make(), repo, **options)


OTHER = "not-like-the-others-1234567"
SECRETS = ["hf_s\u00e9cret1234", "hf_secret1234\nX-Header: 1", "hf secret1234", "\x00secret1234", "secret1234\u200b"]


def texts_of(error: BaseException) -> str:
    """All that a traceback, a log or a debugger would show of an error and of those that it is chained to."""
    found, pending = [], [error]
    while pending:
        each = pending.pop()
        found += [str(each), repr(each), repr(each.args), "".join(traceback.format_exception(each))]
        pending += [cause for cause in (each.__cause__, each.__context__) if cause is not None]
    return "\n".join(found)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_token_of_the_machine_that_cannot_be_sent(hub, monkeypatch, tmp_path, secret):
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(secret, encoding="utf-8")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    if "\n" in secret:
        pytest.skip("huggingface_hub joins the lines of the file")
    for act in (
        pull,
        lambda: sb.push_to_hub(tiny(), REPO),
        lambda: open_encoder("timm:me/vit"),
        lambda: load_llm("me/x"),
    ):
        with pytest.raises(sb.SpatialBoostError, match="the token in HF_TOKEN, or that `hf auth login`") as caught:
            act()
        assert "secret1234" not in texts_of(caught.value) and secret not in texts_of(caught.value)
    assert hub.log == []


@pytest.mark.parametrize("secret", SECRETS)
def test_a_token_that_cannot_be_sent_is_not_told(hub, secret):
    for act in (
        lambda: pull(token=secret),
        lambda: sb.from_pretrained(REPO, token=secret),
        lambda: sb.push_to_hub(tiny(), REPO, token=secret),
        lambda: HubOptions(token=secret),
        lambda: open_encoder("hf:me/vit", kwargs={"token": secret}),
        lambda: open_encoder("timm:me/vit", kwargs={"token": secret}),
        lambda: load_llm("me/llm", token=secret),
    ):
        with pytest.raises(sb.SpatialBoostError) as caught:
            act()
        assert "secret1234" not in texts_of(caught.value)
    assert hub.log == []


def test_no_message_tells_a_token(hub, monkeypatch):
    secret = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
    monkeypatch.setenv("HF_TOKEN", secret)
    sb.push_to_hub(tiny(), REPO, token=OWNER)
    assert secret not in repr(HubOptions(token=secret))
    for act in (
        pull,
        lambda: pull(token=f"{secret}\n"),
        lambda: pull(token=OWNER, revision=secret, force_download=True),
        lambda: pull(token=OWNER, revision=f"x%2F{secret}"),
        lambda: pull(repo=secret),
        lambda: pull(repo=f"me/{secret}"),
        lambda: pull(repo=f"https://me:{secret}@huggingface.co/me/delta"),
        lambda: pull(repo=f"me/{secret}", token=OTHER),
        lambda: pull(subfolder=f"../{secret}"),
        lambda: sb.push_to_hub(tiny(), f"me/{secret}", token=OTHER),
        lambda: sb.push_to_hub(tiny(), REPO, token=OWNER, revision=f"a b {secret}", create_pr=True),
        lambda: open_encoder(f"hf:me/{secret}"),
        lambda: load_llm(f"me/{secret}"),
    ):
        with pytest.raises(sb.SpatialBoostError) as caught:
            act()
        assert secret not in texts_of(caught.value) and OTHER not in texts_of(caught.value)
    hub.fail = {"/resolve/": 500}
    with pytest.raises(sb.SpatialBoostError) as caught:
        pull(revision=secret, token=OWNER)
    assert secret not in texts_of(caught.value)
