from __future__ import annotations

from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from spatialboost.training.report import gates_per_layer, plot_losses, report_lines
from training_rows import SHAPE

STAGES = {
    "stage2": {
        "fit": {"steps": 2, "seconds": 3.2, "history": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]},
        "scores": [
            {"kind": "depth", "answerer": "image", "answers": 8, "accuracy": 0.5, "relative_error": 0.25, "loss": 0.1},
            {
                "kind": "closer",
                "answerer": "guess",
                "answers": 8,
                "accuracy": 0.75,
                "relative_error": None,
                "loss": None,
            },
        ],
    }
}


def test_lines_hold_the_figures():
    first, depth, closer = report_lines(STAGES)
    assert first == "stage2: 2 steps in 3 s, loss 2.000 -> 1.500"
    assert depth.strip() == "depth  image: 50.0% of 8, relative error 0.250" and closer.endswith("guess: 75.0% of 8")


def test_picture_is_drawn(tmp_path):
    plot_losses(STAGES, tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.size[0] > 300 and len(picture.convert("L").getcolors()) > 5


def test_gates_are_those_of_the_encoder():
    encoder = sb.boost(VisionTransformer(**SHAPE), layers=[1])
    (gate,) = (p for name, p in sb.named_parameters(encoder) if name.endswith("gate"))
    gate.data[0] = 100.0
    (layer,) = gates_per_layer(encoder)
    assert layer["layer"] == 1 and layer["max"] == 1.0 and layer["min"] == 0.5 and 0.5 < layer["mean"] < 0.52
    assert gates_per_layer(VisionTransformer(**SHAPE)) == []
