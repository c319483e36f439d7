"""Run a probe: every encoder gets the same items, seeds and draws, and there is one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from spatialboost.encoders import image_preparation
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.draws import Draw, draw_for_seeds, take_all
from spatialboost.probes.encoder_facts import encoder_facts
from spatialboost.probes.features import (
    FeatureCollector,
    Features,
    each_encoder,
    read_batches,
    read_features,
    read_patches,
)
from spatialboost.probes.measures import ProbeRow
from spatialboost.probes.options import CommonOptions, fit_to_patches
from spatialboost.probes.pictures import Panel
from spatialboost.probes.protocol import Measured, Probe, ReadSplit, find_probe
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.splits import Split
from spatialboost.weights.info import versions

Encoders = nn.Module | Mapping[str, nn.Module | tuple[Features, Features]]


def run_probe(
    probe: Probe | str, encoders: Encoders, train: Any, test: Any, options: CommonOptions | None = None
) -> ProbeResult:
    """Measure frozen encoders with a probe.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from spatialboost.probes.depth import DepthProbe
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> result = run_probe(
        ...     DepthProbe(target="metres"), {"mine": encoder}, "rooms:9", "rooms:2", CommonOptions(image_size=32)
        ... )
        >>> result.names, result.settings["views"]
        (['mine', 'constant depth'], [9, 2])

    Args:
        probe: the probe with its own options, or its name.
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is; or, instead of a model, its features of the training and test split as
            `read_features` gives them (of the items that can be read).
        train: the training split: a source, or a string that ``probe.splits`` opens as one, such as ``"rooms:24"``.
            None for a probe that fits nothing.
        test: the test split, in the same form.
        options: the options of all probes.

    Raises:
        SpatialBoostError: no probe of that name, items that cannot be read, too few of them, an encoder that cannot be
            read, or features of other items.
    """
    probe = find_probe(probe)() if isinstance(probe, str) else probe
    options = options or CommonOptions()
    test_source = probe.splits.as_source(test)
    train_source = test_source if train is None else probe.splits.as_source(train)
    probe.check_sources(train_source, test_source)
    test_items = Split(test_source)
    train_items = test_items if train is None else Split(train_source)

    rows: list[ProbeRow] = []
    about, measured = {}, {}
    shown: list[int] = []
    for name, model, switched in each_encoder(encoders, reserved=probe.baseline):
        with switched():
            splits = _read_both(probe, name, model, (train_items, test_items), _fitted(options, model))
            facts = {"encoder": encoder_facts(model)} if isinstance(model, nn.Module) else {}
            shown = _evenly_spaced(len(test_items), options.num_panels)
            about[name] = {**probe.about(splits[0]), **facts}
            measured[name] = probe.measure(name, *splits, _draws(probe, len(train_items), options), shown)
        rows += measured[name].rows
    rows.append(probe.measure_baseline(*splits))

    first = about[next(iter(about))]
    settings = {
        **({} if options.protocol is None else {"protocol": options.protocol}),
        **probe.settings(*splits),
        **{key: value for key, value in first.items() if key not in ("grid", "width", "encoder")},
        "data": _name_of(test) if train is None else f"{_name_of(train)}; measured on {_name_of(test)}",
        probe.splits.noun: [len(test_items)] if train is None else [len(train_items), len(test_items)],
        "left out": test_items.left_out if train is None else train_items.left_out + test_items.left_out,
        **_about_draws(probe, options),
        "encoders": about,
        "versions": {package: found for package, found in versions().items() if found},
    }
    metrics = {key: metric for key, metric in probe.metrics.items() if any(key in row.metrics for row in rows)}
    return ProbeResult(probe.name, settings, metrics, rows, _panels(probe, test_items, shown, measured))


def _read_both(
    probe: Probe,
    name: str,
    model: nn.Module | tuple[Features, Features],
    items: tuple[Split, Split],
    options: CommonOptions,
) -> tuple[ReadSplit, ReadSplit]:
    """Both splits with the features of one encoder; features that were passed instead of a model are checked first.

    If both splits are one, as for a probe that fits nothing, it is read once.
    """
    if isinstance(model, nn.Module):
        if items[0] is items[1]:
            only = _read_split(probe, model, items[1], options, name)
            return only, only
        train, test = (
            _read_split(probe, model, split, options, f"{name}, {title}", stored=probe.stored(title))
            for split, title in zip(items, ("train", "test"), strict=True)
        )
        return train, test
    if not (probe.stored("train") and probe.stored("test")):
        raise SpatialBoostError(
            f"features of {name!r} were given, but with these options the probe reads images again and again: give the "
            "model instead"
        )
    found = [len(features) for features in model]
    if found != [len(split) for split in items]:
        raise SpatialBoostError(
            f"the features of {name!r} are of {found[0]} and {found[1]} {probe.splits.noun}, but {len(items[0])} and "
            f"{len(items[1])} can be read: pass the features of exactly these"
        )
    train, test = (
        ReadSplit(split, features, [probe.keep(item, features.grid, features.image_size) for item in split])
        for split, features in zip(items, model, strict=True)
    )
    return train, test


def _read_split(
    probe: Probe, encoder: nn.Module, items: Split, options: CommonOptions, title: str, *, stored: bool = True
) -> ReadSplit:
    """Read the features, and what the probe keeps of each item, in one pass over the items.

    If the features are not stored, only those of the first item are read.
    """
    collected = FeatureCollector(encoder, options.image_size, options.layer, patches=probe.patches)
    reading: dict[str, Any] = {
        "image_size": options.image_size,
        "layer": options.layer,
        "batch_size": options.batch_size,
    }
    kept: list[Any] = []
    batches = read_batches(
        encoder,
        items if stored else islice(items, 1),
        **reading,
        progress=title if options.progress and stored else None,
        total=len(items.source),
        see=lambda item: probe.image(item, collected.image_size),
    )
    for batch, tokens in batches:
        collected.add(tokens)
        kept += [probe.keep(item, tokens.grid, collected.image_size) for item in batch]
    if not kept:
        reasons = f"; the first error: {items.left_out[0]}" if items.left_out else ""
        raise SpatialBoostError(
            f"{title}: none of {len(items.left_out)} {probe.splits.noun} can be read, expected at least one{reasons}"
        )
    features = collected.features()
    if not stored:
        kept = [probe.keep(item, features.grid, features.image_size) for item in items]
    features_of = partial(read_features, encoder, **reading, patches=probe.patches)
    return ReadSplit(items, features, kept, partial(read_patches, encoder, **reading), features_of)


def _fitted(options: CommonOptions, model: Any) -> CommonOptions:
    """The options, with the image size of a published protocol rounded to whole patches of the encoder."""
    if options.protocol is None or not isinstance(model, nn.Module):
        return options
    return replace(options, image_size=fit_to_patches(options.image_size, image_preparation(model).patch))


def _draws(probe: Probe, num: int, options: CommonOptions) -> list[Draw]:
    return draw_for_seeds(num, options.seeds, options.subset) if probe.draws else [take_all(num)]


def _about_draws(probe: Probe, options: CommonOptions) -> dict[str, Any]:
    if not probe.draws:
        return {"seeds": "none, nothing is drawn"}
    return {"seeds": list(options.seeds), "seeds draw": f"{options.subset:g} of the training {probe.splits.noun}"}


def short_name(data: str) -> str:
    """The name of some data for tables and cards, without the folders of this machine that lead to it.

    Example:
        >>> short_name("/home/me/imagenet/train"), short_name("scannet:/data/scans/scene0"), short_name("rooms:24")
        ('imagenet/train', 'scannet:scans/scene0', 'rooms:24')
    """
    prefix, colon, path = data.rpartition(":")
    return f"{prefix}{colon}{'/'.join(Path(path).parts[-2:])}" if Path(path).is_absolute() else data


def _name_of(given: Any) -> str:
    """What a split was made from, as far as it says so."""
    name = given if isinstance(given, str | Path) else getattr(given, "name", None)
    return "items in memory" if name is None else short_name(str(name))


def _evenly_spaced(num: int, wanted: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, num - 1, min(wanted, num))})


def _panels(probe: Probe, items: Split, shown: Sequence[int], measured: Mapping[str, Measured]) -> list[Panel]:
    if not all(len(found.shown) == len(shown) for found in measured.values()):
        return []  # the probe has no predictions for single items
    panels = (
        probe.panel(items[index], {name: found.shown[place] for name, found in measured.items()})
        for place, index in enumerate(shown)
    )
    return [panel for panel in panels if panel is not None]
