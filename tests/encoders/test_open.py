"""Every kind of specification for `open_encoder`, and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import spatialboost as sb
from host_models import HOSTS, perturb
from spatialboost.boosting.channel import boosted_layers
from spatialboost.encoders import EncoderConfig, normalisation, num_layers, open_encoder, read_tokens
from spatialboost.encoders.libraries import LIBRARIES
from spatialboost.errors import SpatialBoostError

TINY = "vit_tiny_patch16_224"
SHAPE = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}
PLAIN = {"name": "VisionTransformer", "kwargs": SHAPE}
HALF = (0.5, 0.5, 0.5)
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 16}


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# --- one seed, one dtype, one mode


def test_random_weights_come_from_the_seed_and_the_generator_is_unchanged():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = open_encoder(f"timm:{TINY}", pretrained=False, kwargs={"depth": 1})
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(first, open_encoder(f"timm:{TINY}", pretrained=False, kwargs={"depth": 1}))
    assert not same(first, open_encoder(f"timm:{TINY}", pretrained=False, kwargs={"depth": 1}, seed=1))
    assert not first.training and first.pos_embed.dtype == torch.float32
    torch.manual_seed(0)
    assert same(first, open_encoder(f"timm:{TINY}", pretrained=False, kwargs={"depth": 1}, seed=None))
    assert not torch.equal(torch.get_rng_state(), before)


def test_every_opener_gives_the_same_encoder(tmp_path):
    from spatialboost.training.config import load_config

    section = {"name": TINY, "kwargs": {"img_size": 32}}
    config = load_config({"encoder": section, "data": {"folders": ["rooms"]}, "out": tmp_path}).encoder
    ours = open_encoder(f"timm:{TINY}", pretrained=False, kwargs={"img_size": 32})
    sb.save_pretrained(perturb(sb.boost(open_encoder(section))), tmp_path / "delta")
    base = sb.unboost(sb.from_pretrained(tmp_path / "delta", pretrained=False, img_size=32))
    assert same(ours, open_encoder(config)) and same(ours, base)


def test_weights_are_float32_unless_asked(tmp_path):
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(**VISION), add_pooling_layer=False).bfloat16()
    model.save_pretrained(tmp_path / "base")
    spec = f"hf:{tmp_path / 'base'}"
    assert open_encoder(spec).dtype == torch.float32
    assert open_encoder(spec, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert open_encoder(spec, dtype=None).dtype == torch.bfloat16
    sb.save_pretrained(sb.boost(open_encoder(spec)), tmp_path / "delta", base=str(tmp_path / "base"))
    assert open_encoder(str(tmp_path / "delta")).embeddings.cls_token.dtype == torch.float32
    assert open_encoder(f"timm:{TINY}", pretrained=False, dtype=torch.bfloat16).pos_embed.dtype == torch.bfloat16


# --- timm


def test_weights_of_a_file_and_normalisation_are_taken(tmp_path, caplog):
    first = open_encoder(PLAIN)
    assert "has random weights" in caplog.text
    save_file({name: value.half() for name, value in first.state_dict().items()}, tmp_path / "w.safetensors")
    second = open_encoder({**PLAIN, "weights": tmp_path / "w.safetensors", "mean": HALF, "std": HALF})
    assert torch.equal(second.pos_embed, first.pos_embed.half().float()) and not second.training
    assert normalisation(second) == (HALF, HALF)
    other = {"name": "VisionTransformer", "kwargs": {**SHAPE, "depth": 1}, "weights": tmp_path / "w.safetensors"}
    with pytest.raises(SpatialBoostError, match=r"do not fit VisionTransformer: .*blocks.1"):
        open_encoder(other)
    with pytest.raises(SpatialBoostError, match=r"cannot read encoder.weights .*none"):
        open_encoder({**PLAIN, "weights": tmp_path / "none"})


def test_position_grid_of_the_size(tmp_path):
    encoder = open_encoder(f"timm:{TINY}", pretrained=False, image_size=64)
    assert encoder.pos_embed.shape[1] == 1 + 16
    assert read_tokens(encoder, torch.zeros(1, 3, 64, 64)).grid == (4, 4)


# --- transformers


def test_a_folder_gives_its_image_tower(tmp_path):
    from transformers import SiglipConfig, SiglipModel

    text = {**VISION, "vocab_size": 9, "max_position_embeddings": 8}
    whole = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    whole.save_pretrained(tmp_path / "base")
    for spec in (f"hf:{tmp_path / 'base'}", {"library": "transformers", "name": str(tmp_path / "base")}):
        encoder = open_encoder(spec)
        assert type(encoder).__name__ in ("SiglipVisionModel", "SiglipVisionTransformer") and num_layers(encoder) == 1
        assert torch.equal(
            encoder.embeddings.patch_embedding.weight, whole.vision_model.embeddings.patch_embedding.weight
        )
    # the tower stores the folder that it is from, so a delta of it names its base
    boosted = perturb(sb.boost(encoder))
    sb.save_pretrained(boosted, tmp_path / "delta", base=str(tmp_path / "base"))
    images = torch.randn(1, 3, 32, 32)
    again = open_encoder(str(tmp_path / "delta"))
    assert torch.equal(read_tokens(again, images).patches, read_tokens(boosted, images).patches)
    assert encoder.config._name_or_path == str(tmp_path / "base")


def test_random_weights_of_a_transformers_folder(tmp_path):
    from transformers import ViTConfig

    ViTConfig(**VISION).save_pretrained(tmp_path)
    first = open_encoder(f"hf:{tmp_path}", pretrained=False)
    assert same(first, open_encoder({"library": "hf", "name": str(tmp_path), "pretrained": False}))


# --- the others


def test_open_clip_gives_the_image_tower(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    encoder = open_encoder("open_clip:ViT-S-32", pretrained=False)
    assert isinstance(encoder, open_clip.transformer.VisionTransformer) and not encoder.training
    assert same(encoder, open_encoder("open_clip:ViT-S-32", pretrained=False))
    save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, tmp_path / "w.safetensors")
    other = open_encoder("open_clip:ViT-S-32", seed=3, weights=tmp_path / "w.safetensors")
    assert same(encoder, other)
    with pytest.raises(SpatialBoostError, match="has no model 'ViT-S-33'; close to it: ViT-S-32"):
        open_encoder("open_clip:ViT-S-33/x")
    with pytest.raises(SpatialBoostError, match=r"has no weights 'opennai' of ViT-B-32; .* Did you mean 'openai'"):
        open_encoder("open_clip:ViT-B-32/opennai")
    with pytest.raises(SpatialBoostError, match="does not say which weights; expected open_clip:ViT-B-32/PRETRAINED"):
        open_encoder("open_clip:ViT-B-32")


def test_torchvision():
    first = open_encoder("torchvision:vit_b_32", pretrained=False, kwargs={"image_size": 64})
    assert num_layers(first) == 12 and read_tokens(first, torch.zeros(1, 3, 64, 64)).grid == (2, 2)
    with pytest.raises(SpatialBoostError, match="has no model 'vit_b_23'; close to it: vit_b_"):
        open_encoder("torchvision:vit_b_23")
    with pytest.raises(SpatialBoostError, match=r"cannot build 'torchvision:vit_b_32': .*layers"):
        open_encoder("torchvision:vit_b_32", pretrained=False, kwargs={"layers": 1})
    with pytest.raises(SpatialBoostError, match="has no weights 'X'; expected one of IMAGENET1K_V1"):
        open_encoder("torchvision:vit_b_32", kwargs={"weights": "X"})


def test_torchvision_weights_are_tensors_alone_and_say_how_images_are_normalised(monkeypatch):
    from torchvision.models import ViT_B_32_Weights, vit_b_32

    asked = {}

    def state(self, **options):
        asked.update(options)
        torch.manual_seed(1)
        return vit_b_32().state_dict()

    monkeypatch.setattr(ViT_B_32_Weights, "get_state_dict", state)
    encoder = open_encoder("torchvision:vit_b_32")
    assert asked["weights_only"] and asked["check_hash"]
    assert normalisation(encoder)[0] == (0.485, 0.456, 0.406)


@pytest.fixture
def torch_hub(tmp_path: Path) -> Path:
    """A torch.hub folder whose entry downloads weights by default."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(
        "def dino(pretrained=True, rope=False):\n"
        "    assert not pretrained, 'the network was asked'\n"
        "    from hub_models import DinoVisionTransformer\n"
        "    return DinoVisionTransformer(rope=rope)\n"
        "def words():\n    return 'words'\n"
    )
    return tmp_path / "hub"


def test_a_folder_of_torch_hub_on_this_machine(torch_hub, tmp_path):
    encoder = open_encoder(f"hub:{torch_hub}:dino")
    assert type(encoder).__name__ == "DinoVisionTransformer"
    save_file(encoder.state_dict(), tmp_path / "w.safetensors")
    section = {"library": "hub", "name": f"{torch_hub}:dino", "weights": tmp_path / "w.safetensors"}
    assert same(encoder, open_encoder(section, seed=9))
    assert hasattr(open_encoder(f"hub:{torch_hub}:dino", kwargs={"rope": True}), "rope_embed")
    with pytest.raises(SpatialBoostError, match=r"unknown entry of .*hub 'dinno'; known are dino, words. Did you mean"):
        open_encoder(f"hub:{torch_hub}:dinno")
    with pytest.raises(SpatialBoostError, match="gave str; expected an encoder"):
        open_encoder(f"hub:{torch_hub}:words")
    with pytest.raises(SpatialBoostError, match=r"expected FOLDER:ENTRY with a folder that contains hubconf.py"):
        open_encoder(f"hub:{tmp_path}:dino")


# --- a run, a delta, a model


def write_run(folder: Path, text: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run.yaml"
    kwargs = ", ".join(f"{key}: {value}" for key, value in SHAPE.items())
    file.write_text(
        f"out: out\ndata: {{folders: [rooms]}}\nencoder:\n  name: VisionTransformer\n  kwargs: {{{kwargs}}}\n{text}"
    )
    return file


def test_a_run_gives_its_boosted_encoder_from_any_working_directory(tmp_path, monkeypatch):
    file = write_run(tmp_path / "runs", "  weights: w.safetensors\n")
    base = open_encoder(PLAIN, seed=7)
    save_file(base.state_dict(), tmp_path / "runs" / "w.safetensors")
    with pytest.raises(SpatialBoostError, match=r"run.yaml: this run has no delta yet, no stage"):
        open_encoder(file)
    sb.save_pretrained(perturb(sb.boost(base)), tmp_path / "runs" / "out" / "stage3" / "delta")
    monkeypatch.chdir(tmp_path)
    for spec in (file, str(file), "runs/run.yaml"):
        encoder = open_encoder(spec)
        assert len(boosted_layers(encoder)) == 2
        assert torch.equal(encoder.pos_embed, base.pos_embed)


def test_another_run_in_the_working_directory_is_never_taken_for_this_one(tmp_path, monkeypatch):
    file = write_run(tmp_path / "runs")
    sb.save_pretrained(sb.boost(open_encoder(PLAIN)), tmp_path / "out" / "stage3" / "delta")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpatialBoostError, match="this run has no delta yet"):
        open_encoder(file)


def test_a_run_without_stage_3_is_its_base_and_a_delta_can_be_given(tmp_path):
    file = write_run(tmp_path, "stage3: null\n")
    assert not boosted_layers(open_encoder(file))
    delta = sb.save_pretrained(sb.boost(open_encoder(PLAIN)), tmp_path / "delta")
    assert len(boosted_layers(open_encoder(write_run(tmp_path), delta=delta))) == 2
    name = write_run(tmp_path / "named")
    name.write_text(f"out: out\nstage3: null\nencoder: timm:{TINY}\n")
    assert num_layers(open_encoder(name, pretrained=False)) == 12


def test_a_delta_gives_its_base_with_it(tmp_path):
    base = open_encoder(f"timm:{TINY}", pretrained=False)
    delta = sb.save_pretrained(perturb(sb.boost(base)), tmp_path)
    encoder = open_encoder(str(delta), pretrained=False, image_size=64)
    assert len(boosted_layers(encoder)) == 12 and encoder.pos_embed.shape[1] == 1 + 16 and not encoder.training
    assert len(boosted_layers(open_encoder(f"timm:{TINY}", pretrained=False, delta=delta))) == 12


def test_a_model_is_returned_as_it_is():
    encoder = HOSTS["timm"].make().train()
    assert open_encoder(encoder) is encoder and encoder.training


# --- bad input


class NewEncoder(nn.Module):
    """An encoder of no known library: one linear map of each patch."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, 8, 4, 4)


class NewLibrary:
    def build(self, config, dtype):
        return NewEncoder()

    def loads_weights(self, config):
        return False

    def reads(self, encoder):
        return isinstance(encoder, NewEncoder)

    def feature_dim(self, encoder):
        return 8

    def patch_size(self, encoder):
        return 4

    def num_layers(self, encoder):
        return 1

    def hierarchical(self, encoder):
        return False

    def native_size(self, encoder):
        return 16, 16

    def read(self, encoder, pixel_values, layers):
        from spatialboost.encoders.libraries.protocol import tokens_of_map

        return [tokens_of_map(encoder.project(pixel_values)) for _ in layers]

    def preprocessing(self, encoder):
        return None

    def usual_preprocessing(self, encoder):
        from spatialboost.encoders import Preprocessing

        return Preprocessing(HALF, HALF)


def test_a_library_is_one_file_and_one_line(monkeypatch):
    monkeypatch.setitem(LIBRARIES, "new", NewLibrary())
    encoder = open_encoder("new:anything")
    assert read_tokens(encoder, torch.zeros(2, 3, 16, 16)).patches.shape == (2, 16, 8)
    assert normalisation(open_encoder(EncoderConfig(name="x", library="new"))) == (HALF, HALF)
