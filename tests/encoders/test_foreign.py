"""A payload is planted at each door through which files of others come in, and none of them is run or opened."""

from __future__ import annotations

import ast
import json
import pickle
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import spatialboost as sb
from deltas import rewrite, save_tiny
from host_models import HOSTS
from hub_server import Hub, Repo
from spatialboost.encoders import open_encoder, read_preprocessing
from spatialboost.encoders.foreign.checks import checked_config, checked_options
from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.llms import build_small_llm, load_llm

CHATS = [[{"role": "user", "content": "How deep?"}, {"role": "assistant", "content": "2.341 meters."}]]
TINY = {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32}
pickles: list[str] = []  # classes that any pickle has asked for, while a test of this file runs


def _audit(event: str, arguments: tuple) -> None:
    if event == "pickle.find_class" and listening:
        pickles.append(f"{arguments[0]}.{arguments[1]}")


listening: list[bool] = []
sys.addaudithook(_audit)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file that a payload would make. Whatever a test does, no pickle is opened and nobody is asked a question."""
    loaded = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: loaded.append(a) or load(*a, **k))
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("the user is asked whether to run foreign code"))
    pickles.clear()
    listening.append(True)
    yield tmp_path / "ran"
    listening.clear()
    assert not (tmp_path / "ran").exists() and loaded == [] and pickles == []


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def plant(folder: Path, name: str, marker: Path) -> None:
    """A pickle, or a module of Python, that makes the marker."""
    text = f"open({str(marker)!r}, 'w').close()\n"
    (folder / name).write_bytes(text.encode() if name.endswith(".py") else pickle.dumps(Bomb(marker)))


def vit(folder: Path) -> Path:
    HOSTS["vit"].make().save_pretrained(folder)
    return folder


# --- transformers


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "adapter_model.bin", "model.pt"])
@pytest.mark.parametrize("explicit", [False, True])
def test_a_pickle_in_place_of_the_weights(tmp_path, marker, name, explicit):
    folder = vit(tmp_path / "vit")
    (folder / "model.safetensors").unlink()
    plant(folder, name, marker)
    if explicit:
        edit(folder / "config.json", transformers_weights=name)
    with pytest.raises(SpatialBoostError, match="Only safetensors are opened, never a pickle"):
        open_encoder(f"hf:{folder}")


@pytest.mark.parametrize("shard", ["evil.bin", "../evil.safetensors", "/evil.safetensors", 3])
def test_an_index_that_names_something_else(tmp_path, marker, shard):
    folder = vit(tmp_path / "vit")
    (folder / "model.safetensors").unlink()
    plant(folder, "evil.bin", marker)
    plant(tmp_path, "evil.safetensors", marker)
    edit(folder / "model.safetensors.index.json", weight_map={"x": shard}, metadata={})
    with pytest.raises(SpatialBoostError, match="expected safetensors files of the same folder"):
        open_encoder(f"hf:{folder}")


def test_a_distributed_checkpoint_has_a_pickle_as_its_metadata(tmp_path, marker):
    folder = vit(tmp_path / "vit")
    plant(folder, ".metadata", marker)
    plant(folder, "__0_0.distcp", marker)
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert open_encoder(f"hf:{folder}").config._name_or_path == str(folder)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("kind", ["vit", "evil"])
def test_code_beside_a_model(tmp_path, marker, pretrained, kind):
    folder = vit(tmp_path / "vit")
    code = {f"Auto{part}": f"evil.{part}" for part in ("Config", "Model", "ImageProcessor", "FeatureExtractor")}
    plant(folder, "evil.py", marker)
    edit(folder / "config.json", auto_map=code, model_type=kind)
    edit(folder / "preprocessor_config.json", auto_map=code, image_processor_type="ViTImageProcessor")
    if kind == "vit":
        assert type(open_encoder(f"hf:{folder}", pretrained=pretrained)).__module__.startswith("transformers.")
    else:
        with pytest.raises(SpatialBoostError, match=r"cannot build 'hf:.*evil"):
            open_encoder(f"hf:{folder}", pretrained=pretrained)


def test_the_image_processor_is_read_without_its_code(tmp_path, marker):
    folder = vit(tmp_path / "vit")
    plant(folder, "evil.py", marker)
    processor = {"image_processor_type": "ViTImageProcessor", "do_normalize": True, "image_mean": [0.1] * 3}
    edit(folder / "preprocessor_config.json", **processor, image_std=[0.2] * 3, auto_map={"AutoProcessor": "evil.P"})
    assert read_preprocessing(open_encoder(f"hf:{folder}")).mean == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize("class_name", ["pipeline", "AutoModel", "RagRetriever", ["ViTModel"], {"a": 1}, None])
def test_the_class_that_a_config_names(tmp_path, marker, class_name):
    from transformers import CLIPSegConfig

    CLIPSegConfig().save_pretrained(tmp_path / "odd")
    edit(tmp_path / "odd" / "config.json", architectures=[class_name], model_type="clipseg_vision_model")
    with pytest.raises(SpatialBoostError, match=r"cannot (get|build) 'hf:"):
        open_encoder(f"hf:{tmp_path / 'odd'}", pretrained=False)


def test_a_kernel_that_a_config_names(tmp_path, marker):
    from transformers import SiglipConfig, SiglipModel

    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 16}
    text = {**vision, "vocab_size": 9, "max_position_embeddings": 8}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path / "siglip")
    kernel = {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel", "use_kernels": True}
    edit(tmp_path / "siglip" / "config.json", **kernel, vision_config={**vision, **kernel})
    encoder = open_encoder(f"hf:{tmp_path / 'siglip'}")
    assert encoder.config._attn_implementation in ("sdpa", "eager")


def test_an_adapter_leads_to_another_model(tmp_path, marker, monkeypatch):
    folder = vit(tmp_path / "vit")
    edit(folder / "adapter_config.json", base_model_name_or_path="evil/model", peft_type="LORA")
    plant(folder, "adapter_model.bin", marker)
    for name in ("config.json", None):
        with pytest.raises(SpatialBoostError, match=r"has a peft adapter, .*merge_and_unload"):
            open_encoder(f"hf:{folder}")
        with pytest.raises(SpatialBoostError, match="has a peft adapter"):
            load_llm(folder)
        if name:
            (folder / name).unlink()


@pytest.mark.parametrize(
    "redirect",
    [
        {"model_type": "timm_wrapper", "architecture": "local-dir:/evil"},
        {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "/evil.bin"}},
        {"model_type": "detr", "backbone": "evil/model", "use_pretrained_backbone": True},
        {"model_type": "timm_backbone", "backbone": "hf-hub:evil/model"},
        {"model_type": "dpt", "backbone_checkpoint": "evil/model"},
        {"model_type": "vit", "quantization_config": {"quant_method": "mxfp4"}},
        {"model_type": "vit", "nested": [[{"deep": "hf-hub:evil/model"}]]},
    ],
)
def test_a_config_that_leads_elsewhere(tmp_path, marker, redirect):
    edit(tmp_path / "config.json", **redirect)
    for pretrained in (True, False):
        with pytest.raises(SpatialBoostError, match=r"config.json of .* (leads|names|has|is quantised)"):
            open_encoder(f"hf:{tmp_path}", pretrained=pretrained)


# --- language models


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    model, tokenizer = build_small_llm(CHATS, width=32, layers=1, heads=2)
    model.save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    return tmp_path / "llm"


def test_a_pickled_language_model(llm, marker):
    (llm / "model.safetensors").unlink()
    plant(llm, "pytorch_model.bin", marker)
    with pytest.raises(SpatialBoostError, match=r"cannot load the language model .*never a pickle"):
        load_llm(llm)


def test_code_beside_a_language_model_and_its_tokenizer(llm, marker):
    plant(llm, "evil.py", marker)
    (llm / "custom_generate").mkdir()
    plant(llm / "custom_generate", "generate.py", marker)
    edit(llm / "config.json", auto_map={"AutoModelForCausalLM": "evil.M", "AutoConfig": "evil.C"})
    edit(llm / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.F"]}, tokenizer_file="/etc/passwd")
    model, tokenizer = load_llm(llm)
    assert tokenizer.decode(tokenizer("2.341 meters.")["input_ids"]) == "2.341 meters."
    assert model.config._name_or_path == str(llm) and tokenizer.name_or_path == str(llm)


# --- timm


def timm_folder(folder: Path, marker: Path, **config) -> Path:
    """A folder as timm saves it, with a pickle and without safetensors."""
    folder.mkdir(parents=True)
    cfg = {"input_size": [3, 32, 32], "num_classes": 0, "file": str(folder / "pytorch_model.bin"), "custom_load": True}
    edit(
        folder / "config.json", architecture="vit_tiny_patch16_224", pretrained_cfg=cfg, model_args=TINY, num_classes=0
    )
    edit(folder / "config.json", **config)
    for name in ("pytorch_model.bin", "model.pth", "weights.npz"):
        plant(folder, name, marker)
    return folder


def test_a_pickled_timm_model(tmp_path, marker):
    folder = timm_folder(tmp_path / "timm", marker)
    with pytest.raises(SpatialBoostError, match="never a pickle"):
        open_encoder(f"timm:local-dir:{folder}")
    weights = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).state_dict()
    save_file(weights, folder / "model.safetensors")
    encoder = open_encoder(f"timm:local-dir:{folder}")
    assert torch.equal(encoder.pos_embed, weights["pos_embed"]) and encoder.pretrained_cfg["file"] == str(folder)


def test_pickles_of_timm_and_of_a_base_on_the_hub(hub: Hub, tmp_path, marker, monkeypatch):
    folder = timm_folder(tmp_path / "timm", marker)
    hub.repos["evil/model"] = repo = Repo()
    repo.commit({path.name: path.read_bytes() for path in folder.iterdir()}, "evil")
    for spec in ("timm:evil/model", "timm:hf-hub:evil/model@main", "hf:evil/model"):
        with pytest.raises(SpatialBoostError, match="never a pickle"):
            open_encoder(spec)
    delta = save_tiny(tmp_path / "delta")
    rewrite(delta, base_model={"library": "timm", "name": "hf-hub:evil/model"})
    with pytest.raises(SpatialBoostError, match="never a pickle"):
        sb.from_pretrained(delta)
    assert not {"pytorch_model.bin", "model.pth"} & set(hub.downloads())


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "local-dir:/evil"},
        {"architecture": "hf-hub:evil/model"},
        {"architecture": "evil/model"},
        {"architecture": ["vit_tiny_patch16_224"]},
        {"model_args": {**TINY, "checkpoint_path": "/evil.bin"}},
        {"model_args": {**TINY, "pretrained_cfg_overlay": {"file": "/evil.bin"}}},
        {"model_args": {**TINY, "pretrained_cfg": {"file": "/evil.bin"}}},
        {"model_args": "x"},
        {"pretrained_cfg": []},
    ],
)
def test_a_timm_config_that_leads_elsewhere(tmp_path, marker, config):
    folder = timm_folder(tmp_path / "timm", marker, **config)
    for pretrained in (True, False):
        with pytest.raises(SpatialBoostError):
            open_encoder(f"timm:local-dir:{folder}", pretrained=pretrained)


def test_weights_that_timm_publishes_only_as_a_pickle(marker):
    with pytest.raises(SpatialBoostError, match=r"publishes the weights of .* as a pickle, which is never opened"):
        open_encoder("timm:gcvit_tiny.in1k")


# --- open_clip


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (None, {}),
        ("text_cfg", {"hf_model_name": "evil/model", "hf_model_pretrained": True}),
        ("vision_cfg", {"timm_model_name": "hf-hub:evil/model"}),
        ("vision_cfg", {"timm_model_name": "evil/model", "timm_model_pretrained": True}),
        ("vision_cfg", {"timm_model_name": "local-dir:/evil"}),
    ],
)
def test_a_foreign_model_of_open_clip(tmp_path, marker, part, change):
    open_clip = pytest.importorskip("open_clip")
    config = open_clip.get_model_config("ViT-S-32")
    if part:
        config[part] |= change
    edit(tmp_path / "open_clip_config.json", model_cfg=config, preprocess_cfg={})
    for name in ("open_clip_pytorch_model.bin", "model.pth", "x.npz"):
        plant(tmp_path, name, marker)
    with pytest.raises(SpatialBoostError, match=r"never a pickle|names|leads|has timm_model_name"):
        open_encoder(f"open_clip:local-dir:{tmp_path}")


# --- a delta


@pytest.mark.parametrize(
    "base",
    [
        {"library": "timm", "name": "local-dir:{evil}"},
        {"library": "hub", "name": "{evil}:entry"},
        {"library": "torch.hub", "name": "{evil}:entry"},
        {"library": "transformers", "name": "{evil}", "class": "ViTModel"},
        {"library": "transformers", "name": "{evil}/pytorch_model.bin", "class": "ViTModel"},
        {"library": "transformers", "name": "hub:{evil}:entry", "class": "ViTModel"},
        {"library": "transformers", "name": "{evil}", "class": "pipeline"},
    ],
)
def test_the_base_of_a_delta(tmp_path, marker, base):
    evil = timm_folder(tmp_path / "evil", marker)
    for name in ("hubconf.py", "evil.py"):
        plant(evil, name, marker)
    delta = save_tiny(tmp_path / "delta")
    rewrite(delta, base_model={key: value.format(evil=evil) for key, value in base.items()})
    for act in (sb.from_pretrained, open_encoder):
        with pytest.raises(SpatialBoostError):
            act(str(delta))


def test_a_downloaded_delta_names_a_folder_of_this_machine(hub: Hub, tmp_path, marker, monkeypatch):
    vit(tmp_path / "own" / "vit")
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path / "own" / "vit"), "own/vit", "./own/vit", "~/x", "..", "C:\\x"):
        delta = save_tiny(tmp_path / "delta")
        rewrite(delta, base_model={"library": "transformers", "name": name, "class": "ViTModel"})
        hub.repos["evil/delta"] = repo = Repo()
        repo.commit({path.name: path.read_bytes() for path in delta.iterdir()}, "evil")
        with pytest.raises(SpatialBoostError, match=r"its base is in the folder .*, which is never opened"):
            sb.from_pretrained("evil/delta", force_download=True)


# --- a user's own arguments


@pytest.mark.parametrize("spec", ["timm:vit_tiny_patch16_224", "hf:{vit}", "open_clip:ViT-S-32"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"trust_remote_code": True},
        {"use_safetensors": False},
        {"weights_only": False},
        {"checkpoint_path": "{evil}"},
        {"pretrained_cfg_overlay": {"file": "{evil}"}},
        {"pretrained_cfg": {"file": "{evil}"}},
        {"pretrained_image_path": "{evil}"},
        {"attn_implementation": "evil/kernel"},
        {"attn_implementation": {"vision_config": "evil/kernel@v1:f"}},
        {"use_kernels": True},
        {"jit": True},
    ],
)
def test_arguments_that_would_open_a_door(tmp_path, marker, spec, kwargs):
    plant(tmp_path, "evil.bin", marker)
    text = json.dumps(kwargs).replace("{evil}", str(tmp_path / "evil.bin"))
    spec = spec.format(vit=vit(tmp_path / "vit"))
    with pytest.raises(SpatialBoostError, match=r"not allowed|never done"):
        open_encoder(spec, pretrained=False, kwargs=json.loads(text))


def test_a_pickle_as_the_file_of_weights(tmp_path, marker):
    for name in ("evil.bin", "evil.safetensors"):
        plant(tmp_path, name, marker)
        with pytest.raises(SpatialBoostError, match=r"cannot read encoder.weights .*evil"):
            open_encoder("timm:vit_tiny_patch16_224", weights=tmp_path / name)


def test_what_is_harmless_is_kept():
    config = {"attn_implementation": "eager", "backbone": "resnet50", "quantization_config": {"quant_method": "awq"}}
    assert checked_config(config, "config.json") == config
    given = {"trust_remote_code": False, "use_safetensors": True, "depth": 2, "attn_implementation": "sdpa"}
    assert checked_options(given) == {"depth": 2, "attn_implementation": "sdpa"}


LOADERS = {"timm.create_model", "open_clip.create_model", "get_class_from_dynamic_module", "snapshot_download"}
LOADERS |= {"load_state_dict_from_url", "torch.load", "torch.hub.load", "pickle.load", "pickle.loads"}


OURS = {("training/fit.py", "torch.load"), ("encoders/learnt.py", "PeftConfig.from_pretrained")}  # files of a run


def test_no_other_file_calls_their_loaders():
    found, source = set(), Path(sb.__file__).parent
    for path in source.rglob("*.py"):
        for node in (each for each in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(each, ast.Call)):
            called = ast.unparse(node.func)
            if {called, called.rpartition(".")[2]} & LOADERS or called.endswith(".from_pretrained"):
                found.add((str(path.relative_to(source)), called))
    assert {file for file, _ in found - OURS} == {"encoders/foreign/load.py"}
