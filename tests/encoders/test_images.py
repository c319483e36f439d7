"""The preprocessing of images: from the checkpoint, set by the user, or the usual one with a warning."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from host_models import HOSTS, OLD_TRANSFORMERS, transformers_model
from readable_encoders import PLAIN, READABLE
from spatialboost.encoders import (
    ImagePreparation,
    image_preparation,
    normalisation,
    open_encoder,
    prepare_images,
    read_preprocessing,
    set_preprocessing,
)
from spatialboost.encoders.images import CLIP, HALF, IMAGENET
from spatialboost.errors import SpatialBoostError

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8).repeat(2, 0).repeat(2, 1)
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 16}
BICUBIC, LANCZOS = 3, 1

# checkpoint -> model, its configuration, class of its image processor, content of its preprocessor_config.json
# (the files of google/tipsv2-b14, nvidia/C-RADIOv3-B, apple/aimv2-large-patch14-224, facebook/metaclip-2-worldwide-b32,
# DeepGlint-AI/mlcd-vit-bigG-patch14-336, facebook/dino-vits16, facebook/vit-msn-small,
# facebook/data2vec-vision-base, OFA-Sys/chinese-clip-vit-base-patch16, google/siglip-base-patch16-224)
CHECKPOINTS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "TIPSv2": ("Tipsv2VisionModel", "Tipsv2VisionConfig", "Tipsv2ImageProcessor", {}),
    "RADIO": (
        "RadioModel", "RadioConfig", "CLIPImageProcessor", {"do_normalize": False, "do_rescale": True},
    ),
    "AIMv2": ("Aimv2VisionModel", "Aimv2VisionConfig", "CLIPImageProcessor", {}),
    "MetaCLIP 2": ("MetaClip2VisionModel", "MetaClip2VisionConfig", "CLIPImageProcessor", {}),
    "MLCD": ("MLCDVisionModel", "MLCDVisionConfig", "CLIPImageProcessor", {}),
    "DINO v1": (
        "ViTModel", "ViTConfig", "ViTImageProcessor",
        {"image_mean": IMAGENET[0], "image_std": IMAGENET[1], "resample": BICUBIC},
    ),
    "ViT-MSN": (
        "ViTMSNModel", "ViTMSNConfig", "ViTImageProcessor", {"image_mean": IMAGENET[0], "image_std": IMAGENET[1]},
    ),
    "data2vec": ("Data2VecVisionModel", "Data2VecVisionConfig", "BeitImageProcessor", {}),
    "Chinese-CLIP": ("ChineseCLIPVisionModel", "ChineseCLIPVisionConfig", "ChineseCLIPImageProcessor", {}),
    "SigLIP": ("SiglipVisionModel", "SiglipVisionConfig", "SiglipImageProcessor", {}),
    "pixels from -1 to 1": (
        "ViTModel", "ViTConfig", "ViTImageProcessor",
        {"rescale_factor": 2 / 255, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    ),
    "pixels up to 255": (
        "ViTModel", "ViTConfig", "ViTImageProcessor",
        {"do_rescale": False, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
    ),
    "lanczos": ("ViTModel", "ViTConfig", "ViTImageProcessor", {"resample": LANCZOS}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_pixels_are_those_of_the_checkpoints_own_processor(tmp_path, name, caplog):
    transformers = pytest.importorskip("transformers")
    if OLD_TRANSFORMERS and name in ("MetaCLIP 2", "MLCD"):
        pytest.skip("AutoModel of transformers 4.57 does not open the vision tower alone")
    model, config, processor, own = CHECKPOINTS[name]
    if not hasattr(transformers, processor):
        pytest.skip(f"transformers {transformers.__version__} has no {processor}")
    options = VISION | ({"out_indices": [0, 0, 0, 0]} if name == "data2vec" else {})
    transformers_model(model, config, bare=True, **options).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    true = getattr(transformers, processor)(**{"size": size, "do_center_crop": False, **own})
    true.save_pretrained(tmp_path)
    encoder = open_encoder(f"hf:{tmp_path}")
    whole = {"size": size, "do_center_crop": False, "return_tensors": "pt"}
    same_size = np.ascontiguousarray(PHOTO[:32, :32])
    theirs = true(Image.fromarray(same_size), **whole)["pixel_values"]
    torch.testing.assert_close(prepare_images(encoder, [same_size], 32), theirs, rtol=1e-5, atol=1e-5)
    theirs = true(Image.fromarray(PHOTO), **whole)["pixel_values"]
    step = 1 / 255 / min(read_preprocessing(encoder).std)  # both round to 8 bits, sometimes differently
    assert (prepare_images(encoder, [PHOTO], 32) - theirs).abs().max() <= 1.01 * step
    assert "does not say how its images" not in caplog.text


def test_preprocessing_is_kept_through_copies_boost_and_unboost(tmp_path):
    from transformers import ViTImageProcessor

    HOSTS["vit"].make().save_pretrained(tmp_path / "base")
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=BICUBIC).save_pretrained(
        tmp_path / "base"
    )
    encoder = open_encoder(f"hf:{tmp_path / 'base'}")
    expected = image_preparation(encoder)
    assert expected == ImagePreparation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 16, "bicubic")
    (tmp_path / "base" / "preprocessor_config.json").unlink()
    keys = list(encoder.state_dict())
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder)), sb.boost(encoder), sb.unboost(encoder)):
        assert image_preparation(other) == expected
    assert list(encoder.state_dict()) == keys
    assert pickle.loads(pickle.dumps(expected)) == expected


def test_a_model_loaded_by_hand_finds_the_preprocessing_next_to_its_weights(tmp_path):
    from transformers import ViTImageProcessor, ViTModel

    HOSTS["vit"].make().save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    assert normalisation(ViTModel.from_pretrained(tmp_path))[0] == (0.1, 0.2, 0.3)
    # the format of older checkpoints: missing values are the defaults of the class
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "ViTFeatureExtractor", "image_mean": [0.2, 0.2, 0.2]})
    )
    assert normalisation(ViTModel.from_pretrained(tmp_path)) == ((0.2, 0.2, 0.2), HALF[1])


def test_a_base_of_a_delta_and_its_tower_keep_the_preprocessing(tmp_path):
    from transformers import ViTImageProcessor

    model = HOSTS["vit"].make()
    model.save_pretrained(tmp_path / "base")
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "base")
    sb.save_pretrained(sb.boost(model), tmp_path / "delta", base=str(tmp_path / "base"))
    assert normalisation(sb.from_pretrained(tmp_path / "delta"))[0] == (0.1, 0.2, 0.3)


# kind of encoder without stored preprocessing -> the usual one for it
USUAL = {
    "timm": IMAGENET, "timm eva": IMAGENET, "vit": HALF, "dinov2": IMAGENET, "dinov2 registers": IMAGENET,
    "dinov3": IMAGENET, "clip": CLIP, "siglip": HALF, "aimv2": CLIP, "radio": CLIP, "beit": HALF, "open_clip": CLIP,
    "torchvision": IMAGENET, "torch.hub dinov3": IMAGENET, "torch.hub clip": CLIP,
}  # fmt: skip


@pytest.mark.parametrize("name", USUAL)
def test_without_stored_preprocessing_the_usual_one_is_used_with_a_warning(name, caplog):
    encoder = READABLE[name].make()
    if name != "radio":  # which has no processor of its own name
        assert normalisation(encoder) == USUAL[name]
    normalisation(encoder)
    normalisation(encoder)
    told = [record for record in caplog.records if "does not say how its images" in record.message]
    assert len(told) == 1 and "set_preprocessing" in told[0].message and "`mean`" in told[0].message


def test_timm_stores_preprocessing_in_its_configuration(caplog):
    import timm

    for name in ("vit_base_patch16_clip_224.openai", "vit_base_patch16_224.augreg_in21k"):
        config = timm.get_pretrained_cfg(name)
        encoder = open_encoder(f"timm:{name}", pretrained=False, kwargs={"depth": 1})
        told = read_preprocessing(encoder)
        assert (told.mean, told.std, told.interpolation) == (config.mean, config.std, config.interpolation)
    assert "does not say" not in caplog.text
    encoder = VisionTransformer(**PLAIN)
    encoder.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    white = np.full((20, 50, 3), 255, np.uint8)
    assert torch.allclose(prepare_images(encoder, [white], 32), torch.ones(1, 3, 32, 32))


def test_open_clip_stores_preprocessing():
    for name in ("open_clip", "open_clip timm"):
        encoder = READABLE[name].make()
        encoder.preprocess_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear"}
        told = read_preprocessing(encoder)
        assert (told.mean, told.std, told.interpolation) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")


def test_torchvision_weights_have_preprocessing():
    models = pytest.importorskip("torchvision.models")
    from spatialboost.encoders.libraries.torchvision import from_transforms

    told = from_transforms(models.ViT_L_16_Weights.IMAGENET1K_SWAG_E2E_V1.transforms())
    assert told.interpolation == "bicubic" and told.mean == IMAGENET[0]


def test_preprocessing_can_be_set(tmp_path):
    HOSTS["vit"].make().save_pretrained(tmp_path)
    section = {"library": "transformers", "name": str(tmp_path), "mean": [0.1, 0.2, 0.3], "interpolation": "nearest"}
    for encoder in (
        open_encoder(section),
        open_encoder(f"hf:{tmp_path}", mean=(0.1, 0.2, 0.3), interpolation="nearest"),
    ):
        told = read_preprocessing(encoder)
        assert (told.mean, told.std, told.interpolation) == ((0.1, 0.2, 0.3), HALF[1], "nearest")
    with pytest.raises(SpatialBoostError, match=r"unknown interpolation 'cubic'; .*Did you mean 'bicubic'"):
        set_preprocessing(encoder, interpolation="cubic")
    with pytest.raises(SpatialBoostError, match="expected three numbers above zero"):
        set_preprocessing(encoder, std=(0.1, 0.0, 0.1))


def test_images_are_resized_without_crop_and_normalised():
    encoder = VisionTransformer(**PLAIN)
    white = np.full((20, 50, 3), 255, np.uint8)
    pixels = prepare_images(encoder, [white, Image.fromarray(white).convert("L")], (32, 16))
    assert pixels.shape == (2, 3, 32, 16) and torch.equal(pixels[0], pixels[1])
    assert torch.allclose(pixels[0, :, 0, 0], (1 - torch.tensor(IMAGENET[0])) / torch.tensor(IMAGENET[1]))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_images_are_resized_by_pil_to_8_bits(interpolation):
    preparation = ImagePreparation((0.0,) * 3, (1.0,) * 3, 16, interpolation)
    ours = preparation.resize([PHOTO], (32, 48))
    theirs = np.asarray(Image.fromarray(PHOTO).resize((48, 32), Image.Resampling[interpolation.upper()]))
    assert ours.dtype == torch.uint8 and (ours[0].permute(1, 2, 0).numpy() == theirs).all()
    assert torch.equal(preparation([PHOTO], (32, 48)), ours.float() / 255)


def test_images_of_the_size_are_not_touched():
    preparation = ImagePreparation(*IMAGENET, 16, "bicubic")
    mean, std = torch.tensor(IMAGENET).view(2, 3, 1, 1)
    pixels = torch.from_numpy(PHOTO.copy()).permute(2, 0, 1)[None].float().div(255)
    assert torch.equal(preparation([PHOTO], (96, 128)), pixels.sub(mean).div(std))
    assert torch.equal(preparation.normalise(preparation.resize([PHOTO], (96, 128))), preparation([PHOTO], (96, 128)))


def test_exif_orientation_is_not_applied_to_frames(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(tmp_path / "frame.png", exif=exif)
    with Image.open(tmp_path / "frame.png") as frame:
        preparation = ImagePreparation((0.0,) * 3, (1.0,) * 3, 16)
        assert torch.equal(preparation([frame], (96, 128)), preparation([PHOTO], (96, 128)))


def test_sizes_that_hierarchical_encoders_are_built_for_are_taken():
    import timm

    encoder = timm.create_model("levit_128s", num_classes=0)  # 224 pixels, one token every 64 pixels
    assert image_preparation(encoder)([PHOTO], 224).shape == (1, 3, 224, 224)
    with pytest.raises(SpatialBoostError, match="multiple of the encoder's patch size 32"):
        image_preparation(encoder)([PHOTO], 225)


def test_errors_for_wrong_images():
    encoder = VisionTransformer(**PLAIN)
    with pytest.raises(SpatialBoostError, match=r"float64 \(4, 4\); expected uint8"):
        prepare_images(encoder, [np.zeros((4, 4))], 32)
    with pytest.raises(SpatialBoostError, match="mode F have no known range"):
        prepare_images(encoder, [Image.new("F", (4, 4))], 32)
