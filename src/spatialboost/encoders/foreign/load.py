"""Call timm, transformers and open_clip with files that have been checked, and with nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spatialboost.encoders.foreign.checks import SOURCES, checked_options
from spatialboost.encoders.foreign.source import Files, Source, staged
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import HubOptions

CONFIG, PROCESSORS = "config.json", ("preprocessor_config.json", "processor_config.json")
SAFELY = {"trust_remote_code": False, "local_files_only": True}
TEXT_STEMS = ("open_clip_model", "open_clip_pytorch_model", "model")  # of open_clip's safetensors, the usual one first
TOKENIZER_JSON = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.json", "vocab.json", "tekken.json"),
)
TOKENIZER_FILES = (
    *("chat_template.jinja", "merges.txt", "vocab.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model"),
)


# --- transformers


def load_transformers(
    name: str, options: HubOptions, *, cls: Any = None, pretrained: bool, dtype: Any, kwargs: Mapping[str, Any]
) -> Any:
    """A model of transformers, from the safetensors of a folder or a repository, or with random weights.

    Args:
        name: The folder or the repository.
        options: Revision, token and so on.
        cls: Its class, or one of transformers' classes by task, such as `AutoModelForDepthEstimation`. None takes
            `AutoModel`, or the class that the config names if `AutoModel` does not know it.
        pretrained: False gives random weights from torch's generator.
        dtype: Dtype of the weights, or "auto".
        kwargs: More arguments for `from_pretrained`, or for the model's class if the weights are random.

    Raises:
        SpatialBoostError: A file is missing, is no safetensors, or leads elsewhere.
    """
    kwargs = checked_options(kwargs)
    source = Source(name, options)
    with _model_folder(source, weights=pretrained) as folder:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, **SAFELY)
        if cls is not None and not _builds(cls, config):
            raise SpatialBoostError(f"{name!r} is a {config.model_type}, from which no {cls.__name__} can be built")
        cls = cls or _model_class(config, name)
        if pretrained:
            model = cls.from_pretrained(folder, **SAFELY, use_safetensors=True, dtype=dtype, **kwargs)
        else:
            own = {} if dtype == "auto" else {"dtype": dtype}
            if hasattr(cls, "_model_mapping"):
                model = cls.from_config(config, trust_remote_code=False, **own, **kwargs)
            else:
                model = cls._from_config(config, **own, **kwargs)
        _rename(model, folder, source)
    return model


def load_processor(name: str, options: HubOptions) -> Any:
    """The image processor of a folder or a repository; None if there is none that transformers can build."""
    from transformers import AutoImageProcessor

    source = Source(name, options)
    found = {each: content for each in PROCESSORS if (content := source.json(each)) is not None}
    config = source.json(CONFIG)
    if not found and "pretrained_cfg" not in (config or {}):  # timm's config contains the preprocessing
        return None
    with staged({**found, **({} if config is None else {CONFIG: config})}, name) as folder:
        try:
            return AutoImageProcessor.from_pretrained(folder, **SAFELY)
        except Exception:  # a file of another library, or a processor that needs another package
            return None


def load_whole_processor(name: str, options: HubOptions) -> Any:
    """The processor of a model that takes more than images, with its tokenizer, of a folder or a repository.

    Raises:
        SpatialBoostError: There is none that transformers can build.
    """
    from transformers import AutoProcessor

    source = Source(name, options)
    found = {each: content for each in (*PROCESSORS, CONFIG) if (content := source.json(each)) is not None}
    with staged({**_tokenizer_files(source), **found}, name) as folder:
        try:
            processor = AutoProcessor.from_pretrained(folder, **SAFELY)
        except Exception as error:  # transformers raises many kinds for a file that is missing or wrong
            reason = " ".join(str(error).split())[:300]
            raise SpatialBoostError(f"transformers cannot build the processor of {name!r}: {reason}") from error
    if hasattr(processor, "tokenizer"):
        processor.tokenizer.name_or_path = name  # in place of the folder above
    return processor


def load_text_model(name: str, options: HubOptions, *, gguf: str | None, dtype: Any, kwargs: Mapping[str, Any]) -> Any:
    """A causal language model and its tokenizer, from the safetensors or the GGUF file of a folder or a repository."""
    from transformers import AutoModelForCausalLM

    kwargs, source = checked_options(kwargs), Source(name, options)
    if gguf is not None:
        with staged({gguf: source.require(gguf)}, name) as folder:
            llm = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=dtype, **SAFELY, **kwargs)
    else:
        with _model_folder(source, weights=True) as folder:
            llm = AutoModelForCausalLM.from_pretrained(folder, **SAFELY, use_safetensors=True, dtype=dtype, **kwargs)
            _rename(llm, folder, source)
    return llm, load_tokenizer(name, options, gguf=gguf)


def outline_text_model(
    name: str, options: HubOptions, *, gguf: str | None, dtype: Any, kwargs: Mapping[str, Any]
) -> Any:
    """A causal language model on the meta device, from the config alone: no file of weights is asked for."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kwargs, source = checked_options(kwargs), Source(name, options)
    if gguf is not None:
        config = _gguf_config(source.require(gguf))
    else:
        with _model_folder(source, weights=False) as folder:
            config = AutoConfig.from_pretrained(folder, **SAFELY)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=dtype, **kwargs)


@cache
def _gguf_config(file: Path) -> Any:
    """The configuration in a GGUF file; reading it takes seconds, as the vocabulary comes with it."""
    from transformers import AutoConfig

    with staged({file.name: file}, file.name) as folder:
        return AutoConfig.from_pretrained(folder, gguf_file=file.name, **SAFELY)


def load_tokenizer(name: str, options: HubOptions, *, gguf: str | None) -> Any:
    """The tokenizer of a causal language model."""
    from transformers import AutoTokenizer

    source = Source(name, options)
    if gguf is not None:
        with staged({gguf: source.require(gguf)}, name) as folder:
            return AutoTokenizer.from_pretrained(folder, gguf_file=gguf, **SAFELY)
    with staged({**_tokenizer_files(source), CONFIG: source.json(CONFIG, required=True) or {}}, name) as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder, **SAFELY)
        tokenizer.name_or_path = name
    return tokenizer


def _tokenizer_files(source: Source) -> Files:
    """The files of a tokenizer, as far as there are any."""
    files: Files = {each: found for each in TOKENIZER_FILES if (found := source.get(each)) is not None}
    for each in TOKENIZER_JSON:
        if (content := source.json(each)) is not None:
            # a path in it would be opened in place of the tokenizer's own file
            files[each] = {key: value for key, value in content.items() if not key.endswith(("_file", "_path"))}
    return files


@contextmanager
def _model_folder(source: Source, *, weights: bool) -> Iterator[str]:
    """A folder with the checked config of a model of transformers, and with its safetensors."""
    config = source.json(CONFIG)
    if source.get("adapter_config.json") is not None:
        raise SpatialBoostError(
            f"{source.name!r} has a peft adapter, which belongs onto another model: load that model and the adapter "
            "with peft, call merge_and_unload() and save_pretrained(FOLDER), and give that folder"
        )
    config = source.json(CONFIG, required=True) or {}
    if not isinstance(config.get("model_type", ""), str) or not (
        config.get("model_type") or "pretrained_cfg" in config
    ):
        raise SpatialBoostError(f"{CONFIG} of {source.name!r} has no model_type: it is not a model of transformers")
    files: Files = {CONFIG: config}
    if (generation := source.json("generation_config.json")) is not None:
        files["generation_config.json"] = generation
    with staged(files | (source.weights() if weights else {}), source.name) as folder:
        yield folder


def _model_class(config: Any, name: str) -> Any:
    """`AutoModel`, or the class that the configuration names if `AutoModel` does not know this kind of model."""
    import transformers

    if type(config) in transformers.AutoModel._model_mapping:
        return transformers.AutoModel
    named = getattr(config, "architectures", None)
    named = named[0] if isinstance(named, list) and named else None
    cls: Any = getattr(transformers, named, None) if isinstance(named, str) else None
    if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
        return cls
    raise SpatialBoostError(
        f"transformers {transformers.__version__} has no model class {named!r}, which {name!r} needs"
    )


def _builds(cls: Any, config: Any) -> bool:
    """Whether a class of models, or a class by task (`AutoModelFor...`), can be built from a configuration."""
    by_task = getattr(cls, "_model_mapping", None)
    if by_task is not None:
        return type(config) in by_task
    return cls.config_class in (type(config), *config.sub_configs.values())


def _rename(model: nn.Module, folder: str, source: Source) -> None:
    """The model and its configs store the name that the user gave, and the commit, in place of the staged folder."""
    commit = source.options.revision if source.folder is None else None
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if str(getattr(config, "_name_or_path", "")) == folder:
            config._name_or_path, config._commit_hash = source.name, commit
        if getattr(module, "name_or_path", None) == folder:
            module.name_or_path = source.name  # type: ignore[assignment]


# --- ONNX


def load_onnx(name: str, file: str, *, inputs: Collection[str], device: str) -> Any:
    """A session of onnxruntime for one ONNX file of a folder or a repository. It has no access to any other file.

    Args:
        name: The folder or the repository.
        file: Name of the file.
        inputs: Names of the inputs that the network must have.
        device: "cpu" or "cuda".

    Raises:
        SpatialBoostError: onnxruntime or the file is missing, or the network has other inputs.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise SpatialBoostError(f"{file} of {name!r} needs onnxruntime: pip install onnxruntime ({error})") from None
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise SpatialBoostError(f"this onnxruntime has no {provider}: install onnxruntime-gpu, or take the device cpu")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with staged({file: Source(name).require(file)}, name) as folder:
        try:
            session = onnxruntime.InferenceSession(str(Path(folder, file)), settings, providers=[provider])
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise SpatialBoostError(f"onnxruntime cannot open {file} of {name!r}: {reason}") from None
    found = {each.name for each in session.get_inputs()}
    if found != set(inputs):
        raise SpatialBoostError(
            f"{file} of {name!r} has the inputs {', '.join(sorted(found))}; expected {', '.join(sorted(inputs))}"
        )
    return session


# --- timm


def load_timm(name: str, options: HubOptions, *, pretrained: bool, kwargs: Mapping[str, Any]) -> nn.Module:
    """A model of timm: by its name in timm, or from a folder (`local-dir:`) or a repository (`hf-hub:`) of a model."""
    import timm

    kwargs = checked_options(kwargs)
    if name.startswith(SOURCES):
        kind, _, place = name.partition(":")
        place, _, revision = place.partition("@") if kind != "local-dir" else (place, "", "")
        source = _source(place, options, revision, local=kind == "local-dir")
        config = source.json(CONFIG, required=True) or {}
        _check_timm_config(config, source.name)
        with staged({CONFIG: config, **(source.weights() if pretrained else {})}, source.name) as folder:
            model = timm.create_model(f"local-dir:{folder}", pretrained=pretrained, **kwargs)
        own: dict[str, Any] = {"source": "local-dir", "file": place}
        if kind != "local-dir":
            own = {"source": "hf-hub", "hf_hub_id": f"{place}@{revision}" if revision else place, "file": None}
        return _with_cfg(model, own)
    if not pretrained:
        return timm.create_model(name, pretrained=False, **kwargs)
    known = timm.models.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        why = "as a pickle, which is never opened" if known is not None and known.url else "nowhere"
        raise SpatialBoostError(
            f"timm publishes the weights of {name} {why}: give a safetensors file (`weights`), or use random weights"
        )
    weights = next(iter(Source(known.hf_hub_id, _pinned(options)).weights().values()))
    # `custom_load` describes the format of the original file, not of this one
    given = {"file": str(weights), "custom_load": False}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given, **kwargs)
    return _with_cfg(model, {"file": known.file, "custom_load": known.custom_load})


def _with_cfg(model: Any, values: Mapping[str, Any]) -> nn.Module:
    """The model, whose config says where its weights are from, and not which file this call has given."""
    model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, **values}
    return model


def _source(place: str, options: HubOptions, revision: str, *, local: bool) -> Source:
    """The folder after `local-dir:`, or the repository after `hf-hub:`."""
    from dataclasses import replace

    if local and not Path(place).expanduser().is_dir():
        raise SpatialBoostError(f"local-dir:{place} is not a folder: give a folder with config.json and safetensors")
    return Source(place, options if local else replace(options, revision=revision or options.revision or "main"))


def _pinned(options: HubOptions) -> HubOptions:
    """The options for a repository that a library names itself: it is never a folder of this machine."""
    from dataclasses import replace

    return options if options.revision else replace(options, revision="main")


def _check_timm_config(config: dict[str, Any], name: str) -> None:
    import timm

    architecture, arguments = config.get("architecture"), config.get("model_args", {})
    inner = config.get("pretrained_cfg", {})
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise SpatialBoostError(
            f"{CONFIG} of {name!r} has architecture {str(architecture)[:80]!r}, which timm {timm.__version__} does not "
            "have: it is not a model of this timm"
        )
    if not isinstance(arguments, dict) or not isinstance(inner, dict):
        raise SpatialBoostError(f"{CONFIG} of {name!r} has model_args or pretrained_cfg of a wrong type")
    checked_options(arguments)


# --- open_clip


def load_open_clip(
    name: str, tag: str | None, options: HubOptions, *, pretrained: bool, kwargs: Mapping[str, Any]
) -> nn.Module:
    """The image tower of a model of open_clip: by name and tag, or from a folder or a repository of a model."""
    import open_clip

    kwargs = {**checked_options(kwargs), "pretrained_text": False}
    if name.startswith(SOURCES):
        kind, _, place = name.partition(":")
        source = _source(place, options, "", local=kind == "local-dir")
        config = source.json("open_clip_config.json", required=True) or {}
        _check_open_clip_config(config, source.name)
        files = {"open_clip_config.json": config, **(source.weights(TEXT_STEMS) if pretrained else {})}
        with staged(files, source.name) as folder:
            return open_clip.create_model(f"local-dir:{folder}", load_weights=pretrained, **kwargs).visual
    if not pretrained:
        return open_clip.create_model(name, pretrained=None, load_weights=False, **kwargs).visual
    if str(tag).endswith(".safetensors"):
        return open_clip.create_model(name, pretrained=tag, **kwargs).visual
    known = open_clip.get_pretrained_cfg(name, tag)
    place, _, file = str(known.get("hf_hub") or "").rpartition("/")
    if not place:
        raise SpatialBoostError(f"open_clip publishes the weights {tag!r} of {name} only as a pickle, never opened")
    stems = (Path(file).stem, *TEXT_STEMS) if file else TEXT_STEMS
    weights = next(iter(Source(place, _pinned(options)).weights(stems).values()))
    preprocessing = {key: known[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in known}
    kwargs["force_preprocess_cfg"] = preprocessing | (kwargs.get("force_preprocess_cfg") or {})
    return open_clip.create_model(name, pretrained=str(weights), **kwargs).visual


def _check_open_clip_config(config: dict[str, Any], name: str) -> None:
    import timm

    towers = config.get("model_cfg")
    towers = [towers.get(each) for each in ("text_cfg", "vision_cfg")] if isinstance(towers, dict) else []
    if not towers or not all(isinstance(each, dict) for each in towers):
        raise SpatialBoostError(f"open_clip_config.json of {name!r} has no model_cfg with text_cfg and vision_cfg")
    inner = towers[1].get("timm_model_name")
    if inner is not None and not (isinstance(inner, str) and timm.is_model(inner)):
        raise SpatialBoostError(
            f"open_clip_config.json of {name!r} names {str(inner)[:80]!r}, which timm does not have"
        )
