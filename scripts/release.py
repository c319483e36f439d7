"""Make a folder of `release/` from the results of `spatialboost demo`: the delta in float16, with its figures.

spatialboost demo --out demo && python scripts/release.py demo release/demo-rooms
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import spatialboost as sb
from spatialboost.demo import load_encoder
from spatialboost.encoders import open_encoder

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder of a demo")
    parser.add_argument("out", type=Path, help="folder for the delta")
    args = parser.parse_args()
    facts = json.loads((args.demo / "result.json").read_text())
    delta = args.demo / "seed0" / "boosted" / "stage3" / "delta"
    config = json.loads((delta / "config.json").read_text())
    section = facts["config"]["encoder"]
    own = str(section.get("weights", "")).endswith("assets/encoder/model.safetensors")  # the encoder in this package
    encoder = sb.load_pretrained(load_encoder() if own else open_encoder(section), delta)
    probes = sorted((args.demo / "seed0" / "probes").glob("*/*.json"))
    base = config["base_model"]
    sb.save_pretrained(
        encoder,
        args.out,
        base="spatialboost.demo.load_encoder" if own else base["name"],
        license="apache-2.0" if own else base["license"],
        training={**config["training"], "verdict": facts["verdict"]},
        results=probes,
        dtype="float16",
    )
    if own:
        shutil.copy(ROOT / "LICENSE", args.out / "LICENSE")
    print((args.out / "README.md").read_text())


if __name__ == "__main__":
    main()
