"""Single files of a folder or of a repository on the Hub, and a folder that contains only those."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spatialboost.encoders.foreign.checks import checked_config
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.format import parse_json
from spatialboost.weights.hub import HubOptions, fetch_file, repo_id_of, stays_inside

JSON_LIMIT = 64 << 20  # bytes; the tokenizers with the largest vocabularies have about 30 MB
SAFE = re.compile(r"[\w.-]+\.safetensors")
Files = dict[str, "Path | dict[str, Any]"]


class Source:
    """A folder of this machine, or a repository at one commit, whose files are taken one by one.

    Attributes:
        name: The folder or the repository, as the user gave it.
        options: Revision, token and so on; the revision becomes the commit when the first file has been found.
        folder: The folder, None for a repository.
    """

    def __init__(self, name: str, options: HubOptions | None = None) -> None:
        self.name, self.options = name, options or HubOptions()
        if not stays_inside(self.options.subfolder):
            raise SpatialBoostError(f"subfolder={self.options.subfolder!r} leads out of {name}; give a path inside it")
        folder = Path(name).expanduser()
        self.folder = folder / self.options.subfolder if name and folder.is_dir() else None
        self.repo_id = "" if self.folder else repo_id_of(name, self.options, "a folder of a model")

    def get(self, name: str, *, optional: bool = True) -> Path | None:
        """The file of this name, None if there is none, or if it is `optional` and not in the cache without network."""
        if self.folder is not None:
            return self.folder / name if (self.folder / name).is_file() else None
        path = fetch_file(self.repo_id, name, self.options, optional=optional)
        if path is not None:
            self.options = self.options.at(path)
        return path

    def require(self, name: str) -> Path:
        """The file of this name.

        Raises:
            SpatialBoostError: There is none.
        """
        if (path := self.get(name, optional=False)) is None:
            raise SpatialBoostError(f"{self.name!r} has no {name}. Check the name, the revision and the subfolder")
        return path

    def json(self, name: str, *, required: bool = False) -> dict[str, Any] | None:
        """The content of a JSON file without what would run code; None if there is no such file."""
        path = self.require(name) if required else self.get(name)
        if path is None:
            return None
        if (size := path.stat().st_size) > JSON_LIMIT:
            raise SpatialBoostError(f"{path} has {size:,} bytes, of at most {JSON_LIMIT:,}: it is not a config")
        return checked_config(parse_json(path.read_bytes(), path), f"{name} of {self.name!r}")

    def weights(self, stems: Sequence[str] = ("model",)) -> Files:
        """The safetensors file of the first of these names that there is, or the index and its shards.

        Raises:
            SpatialBoostError: There is none, or the index names something else.
        """
        for stem in stems:
            if (path := self.get(f"{stem}.safetensors")) is not None:
                return {path.name: path}
            index_name = f"{stem}.safetensors.index.json"
            if (index := self.json(index_name)) is not None:
                named = index.get("weight_map")
                shards = list(dict.fromkeys(named.values())) if isinstance(named, dict) else []
                wrong = [shard for shard in shards if not (isinstance(shard, str) and SAFE.fullmatch(shard))]
                if wrong or not shards:
                    raise SpatialBoostError(
                        f"{index_name} of {self.name!r} names the file {str((wrong or ['none'])[0])[:80]!r}; expected "
                        "safetensors files of the same folder"
                    )
                return {index_name: index, **{shard: self.require(shard) for shard in shards}}
        self.get(f"{stems[0]}.safetensors", optional=False)  # raises an error if it is only not in the cache
        names = " or ".join(f"{stem}.safetensors" for stem in stems)
        raise SpatialBoostError(
            f"{self.name!r} has no {names}. Only safetensors are opened, never a pickle such as pytorch_model.bin: "
            "convert it (https://huggingface.co/docs/safetensors/convert-weights), or ask its author to"
        )


@contextmanager
def staged(files: Mapping[str, Path | dict[str, Any]], name: str) -> Iterator[str]:
    """A temporary folder that contains only these files. Errors that mention it mention `name` instead."""
    with tempfile.TemporaryDirectory(prefix="spatialboost-", ignore_cleanup_errors=True) as root:
        for each, content in files.items():
            path = Path(root, each)
            if isinstance(content, dict):
                path.write_text(json.dumps(content), encoding="utf-8")
                continue
            try:
                os.symlink(content.resolve(), path)
            except OSError:  # Windows may not allow links
                shutil.copyfile(content, path)
        try:
            yield root
        except Exception as error:
            error.args = tuple(a.replace(root, name) if isinstance(a, str) else a for a in error.args)
            raise
