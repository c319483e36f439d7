"""The linear probe against scikit-learn's logistic regression, and what it refuses."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.classification import CHANCE
from spatialboost.probes.features import Features
from spatialboost.probes.image_folder import read_image_folder
from spatialboost.probes.linear import linear_probe

CLASSES, WIDTH = 7, 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("images")
    for split, num in (("train", 30), ("test", 12)):
        for label in range(CLASSES):
            folder = out / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(num):
                Image.new("RGB", (8, 8), (30 * label, 255 - 30 * label, index)).save(folder / f"{index}.png")
    return read_image_folder(out / "train"), read_image_folder(out / "test")


def clusters(images, seed: int, cls: bool = True) -> Features:
    """One noisy vector of an image, around the centre of its class."""
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(len(images), WIDTH, generator=torch.Generator().manual_seed(seed))
    vectors = centres[torch.tensor(images.labels)] + 1.5 * noise
    tokens = vectors[:, None] if not cls else torch.zeros(len(images), 1, WIDTH)
    return Features(tokens, vectors if cls else None, (1, 1), (8, 8), 0, "none")


@pytest.mark.parametrize("cls", [True, False])
def test_accuracy_is_near_that_of_logistic_regression(folders, cls):
    train, test = folders
    given = clusters(train, 1, cls), clusters(test, 2, cls)
    result = linear_probe({"some": given}, train, test, steps=200, batch=64, seeds=[0, 1])
    x, x_test = (each.cls_VD if cls else each.tokens_VND[:, 0] for each in given)
    theirs = LogisticRegression(max_iter=2000).fit(x.numpy(), train.labels).score(x_test.numpy(), test.labels)
    assert 0.5 < theirs < 0.99
    assert result.spread("some", "accuracy").mean == pytest.approx(theirs, abs=0.06)
    assert result.spread("some", "top5").mean > result.spread("some", "accuracy").mean
    assert result.spread(CHANCE, "accuracy").mean == pytest.approx(1 / CLASSES)
    assert result.settings["encoders"]["some"]["token"] == ("class token" if cls else "mean patch token")
    assert np.mean(result.rows[0].per_view) == pytest.approx(result.rows[0].metrics["accuracy"])


def test_an_encoder_both_tokens_and_what_is_refused(folders):
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=16, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0)
    options = {"image_size": 16, "steps": 40, "batch": 64, "seeds": [0], "rates": [0.01]}
    result = linear_probe({"mine": encoder}, *folders, token="both", **options)
    assert result.spread("mine", "accuracy").mean > 0.5
    with pytest.raises(SpatialBoostError, match="no class token"):
        linear_probe({"some": tuple(clusters(each, 1, cls=False) for each in folders)}, *folders, token="class")
    with pytest.raises(SpatialBoostError, match="token is 'patch'"):
        linear_probe({"mine": encoder}, *folders, token="patch")
