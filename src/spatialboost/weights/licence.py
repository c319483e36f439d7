"""The licence of a delta's base: where its text stands, and the text itself for an upload.

Some licences must be passed on with everything that is made from the weights; DINOv3's demands a copy of its text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import HubOptions, fetch_file

logger = logging.getLogger(__name__)

NAMES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt")  # in the repository of a base
OWN = re.compile(r"(LICEN[CS]E|NOTICE)([.-][\w.-]+)?", re.IGNORECASE)  # in the folder of a delta
CREATIVE_COMMONS = re.compile(r"cc-(by(?:-nc)?(?:-sa|-nd)?)-(4\.0|3\.0)")
ADDRESSES = {
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "bsd-3-clause": "https://opensource.org/license/bsd-3-clause",
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
    "dinov3-license": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
    "mit": "https://opensource.org/license/mit",
}


def licence_address(licence: object) -> str | None:
    """Where the text of a licence stands, by its identifier on the Hub; None if that is not known.

    Example:
        >>> licence_address("cc-by-nc-4.0")
        'https://creativecommons.org/licenses/by-nc/4.0/legalcode'
    """
    identifier = licence.strip().lower() if isinstance(licence, str) else ""
    if found := CREATIVE_COMMONS.fullmatch(identifier):
        return f"https://creativecommons.org/licenses/{found[1]}/{found[2]}/legalcode"
    return ADDRESSES.get(identifier)


def own_licence_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that hold a licence, by name."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and OWN.fullmatch(path.name)}


def licence_files(folder: Path, base: Mapping[str, Any], token: str | bool | None) -> dict[str, Path]:
    """The files with the licence of the base that belong beside a delta on the Hub: name there -> file.

    Those in the folder of the delta, if there are any. Else those of the base's repository, which are downloaded. If
    that repository cannot be read or has none, a warning says where the text stands.
    """
    own = own_licence_files(folder)
    repo, found = base.get("hub_id"), {}
    if own or not isinstance(repo, str):
        return own
    revision = base.get("revision")
    repo, _, at = repo.partition("@")
    options = HubOptions(revision=at or (revision if isinstance(revision, str) else None) or "main", token=token)
    try:
        for name in NAMES:
            if (path := fetch_file(repo, name, options)) is not None:
                found[name] = path
    except SpatialBoostError as error:
        logger.warning("the licence of the base could not be fetched: %s", error)
    if not found:
        where = licence_address(base.get("license")) or f"the page of {repo}"
        logger.warning(
            "no text of the base's licence (%s) is uploaded; it stands at %s. If it has to be passed on, put it as "
            "LICENSE into %s and push again",
            base.get("license") or "not recorded",
            where,
            folder,
        )
    return found
