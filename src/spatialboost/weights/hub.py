"""The Hugging Face Hub: download single files, upload files in one commit, and explain the Hub's errors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import quote

from spatialboost.errors import SpatialBoostError, plain, redact

# A name that begins like one of these is taken for a path: nobody wants it to be asked for over the network.
FOLDERS = ("run", "runs", "out", "output", "outputs", "checkpoint", "checkpoints", "results", "logs", "tmp")


@dataclass(frozen=True)
class HubOptions:
    """Which revision and folder of a repository to read, and how; the names are those of the Hub's other libraries."""

    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""

    def __post_init__(self) -> None:
        if self.force_download and self.local_files_only:
            raise SpatialBoostError(
                "force_download=True and local_files_only=True contradict each other: leave one out."
            )

        object.__setattr__(self, "token", clean_token(self.token))

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> HubOptions:
        """The options of these names, which are removed from the dictionary."""
        return cls(**{each.name: options.pop(each.name) for each in fields(cls) if each.name in options})

    def at(self, downloaded: Path) -> HubOptions:
        """The same options with the commit of a downloaded file as their revision."""
        commit = re.search(r"snapshots[/\\]([0-9a-f]{40})[/\\]", str(downloaded))
        return replace(self, revision=commit[1]) if commit else self


def clean_token(token: str | bool | None) -> str | bool | None:
    """The token without white space around it; a token that was read from a file often has some.

    Raises:
        SpatialBoostError: It has characters that are not allowed in a token. HTTP libraries would print such a token in
            their errors.
    """
    if not isinstance(token, str | bool | None):
        raise SpatialBoostError(f"`token` is {type(token).__name__}; expected a text such as hf_..., True or False")
    if not isinstance(token, str):
        return token
    token = token.strip().removeprefix("\ufeff").strip()  # some editors begin a file with this mark
    if not re.fullmatch(r"[!-~]+", token):
        raise SpatialBoostError("`token` is empty or has spaces or special characters; expected a token such as hf_...")
    return token


def repo_id_of(name: str | os.PathLike[str], options: HubOptions, folder: str) -> str:
    """The id of a repository on the Hub, for a name that is not a folder here. Nothing is asked for over the network.

    Args:
        name: What the user gave.
        options: With a `revision`, the name is never taken for a path.
        folder: What a folder should have been, for the error message.

    Raises:
        SpatialBoostError: The name looks like a path.
    """
    text = str(name)
    first, slash, _ = text.partition("/")
    hint = ""
    is_id = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*(/[\w.-]*\w)?", text, re.ASCII) is not None
    if is_id and slash and options.revision is None and (first.lower() in FOLDERS or Path(first).is_dir()):
        is_id, hint = False, '. If it is a repository on the Hub, give its `revision`, such as "main"'
    if is_id:
        return text
    raise SpatialBoostError(f"there is no folder {text}: give {folder}, or `user/name` on the Hub{hint}")


def stays_inside(subfolder: str) -> bool:
    """Whether a path leads to a folder inside of the folder that it begins at."""
    path = Path(subfolder)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in subfolder


def check_token_of_machine() -> None:
    """Raise unless the token of this machine (`HF_TOKEN`, or `hf auth login`) can be sent.

    Raises:
        SpatialBoostError: It has characters that an HTTP library would refuse, with the token in its message.
    """
    from huggingface_hub import get_token

    try:
        clean_token(get_token())
    except SpatialBoostError:
        raise SpatialBoostError(
            "the token in HF_TOKEN, or that `hf auth login` has stored, has spaces or special characters: set it again"
        ) from None


def fetch(repo_id: str, name: str, options: HubOptions, *, instead_of: str | None = None) -> Path:
    """Download a file of a repository, unless the cache has it and it is up to date; returns its path.

    Args:
        repo_id: `user/name`.
        name: Name of the file in `options.subfolder`.
        options: Revision, token, cache and so on.
        instead_of: Name of a file that was searched first; used in the error message.

    Raises:
        SpatialBoostError: It does not exist or cannot be downloaded; the message says why and what to do.
    """
    found = fetch_file(repo_id, name, options)
    if found is None:
        where = f" in {options.subfolder!r}" if options.subfolder else ""
        names = f"neither {instead_of} nor {name}" if instead_of else f"no {name}"
        raise SpatialBoostError(
            f"{repo_id!r} has {names}{where} (revision {options.revision or 'main'}): there is no complete delta. "
            "Check the name, `revision` and `subfolder`."
        )
    return found


def fetch_file(repo_id: str, name: str, options: HubOptions, *, optional: bool = False) -> Path | None:
    """Like `fetch`, but returns None if the repository exists and does not have this file.

    If the file is `optional`, None is also returned if it is not in the cache and only the cache is used.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    what = f"{repo_id!r} is not a folder here, and {name} could not be downloaded from the Hub"
    if options.token is None or options.token is True:
        check_token_of_machine()
    with translated(what, options.token):
        try:
            path = hf_hub_download(
                repo_id,
                name,
                subfolder=options.subfolder or None,
                revision=options.revision,
                token=options.token,
                cache_dir=options.cache_dir,
                local_files_only=options.local_files_only,
                force_download=options.force_download,
                library_name="spatialboost",
            )
        except LocalEntryNotFoundError as error:
            if options.revision and is_known_absent(repo_id, name, options):
                return None
            if optional and (options.local_files_only or _is_offline(error.__cause__)):
                return None
            raise
        except EntryNotFoundError:
            return None
        except ValueError as error:  # its text is only "forced download failed"; the reason is in its cause
            raise error.__cause__ or error from None
    return Path(path)


def is_known_absent(repo_id: str, name: str, options: HubOptions) -> bool:
    """Whether the cache has recorded that this commit has no such file."""
    from huggingface_hub import try_to_load_from_cache

    inside = f"{options.subfolder}/{name}" if options.subfolder else name
    found = try_to_load_from_cache(repo_id, inside, cache_dir=options.cache_dir, revision=options.revision)
    return found is not None and not isinstance(found, str)


def upload(
    repo_id: str,
    files: Mapping[str, Path],
    *,
    more: Callable[[], Mapping[str, Path]] = dict,
    replaces: Sequence[str],
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    create_pr: bool,
    commit_message: str,
    commit_description: str | None,
    subfolder: str,
) -> str:
    """Upload files in one commit; returns the address of the commit, or of the pull request.

    Args:
        repo_id: `user/name`; created if it does not exist.
        files: Name in the repository -> file.
        more: Function that gives further files; it is called when the repository is there.
        replaces: Patterns of files that the same commit deletes from the repository, except those among `files`.
        private: Whether a new repository is private.
        token: None uses the token set by `hf auth login` or `HF_TOKEN`.
        revision: Branch; created if it does not exist, unless a pull request is opened.
        create_pr: Open a pull request instead of a commit on the branch.
        commit_message: First line of the commit message.
        commit_description: The other lines of the commit message.
        subfolder: Folder in the repository.

    Raises:
        SpatialBoostError: The Hub refuses; the message contains its answer.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if create_pr and revision not in (None, "main"):
        raise SpatialBoostError(f"create_pr=True opens a pull request against main: leave revision={revision!r} out.")
    if not stays_inside(subfolder):
        raise SpatialBoostError(f"subfolder={subfolder!r} leads out of the repository; give a path inside it.")
    token = clean_token(token)
    if token is None or token is True:
        check_token_of_machine()
    api = HfApi(token=token, library_name="spatialboost")
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    with translated(f"could not push to {repo_id!r}", token):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        added = {f"{prefix}{name}": path for name, path in {**files, **more()}.items()}
        there = api.list_repo_files(repo_id, revision=revision)
        ours = [path for path in there if path.startswith(prefix) and path not in added]  # the prefix is no pattern
        stale = [path for path in ours if any(fnmatch(path.removeprefix(prefix), pattern) for pattern in replaces)]
        # in one commit, so that a download at the same time gets the old or the new delta, never a mixture
        # (`upload_folder` may make several commits)
        operations: list[Any] = [
            *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=file) for path, file in added.items()),
            *(CommitOperationDelete(path_in_repo=path) for path in stale),
        ]
        try:
            commit = api.create_commit(
                repo_id=repo_id,
                operations=operations,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
                commit_description=commit_description or "",
            )
        except ValueError as error:  # for example, the Hub does not accept the front matter of the card
            if isinstance(error, HfHubHTTPError | HFValidationError):
                raise  # explained by `translated`
            raise SpatialBoostError(f"could not push to {repo_id!r}: {error}") from error
    return str(commit.pr_url or commit.commit_url)


@contextmanager
def translated(what: str, token: str | bool | None = None) -> Iterator[None]:
    """Turn errors of the Hub's client into `SpatialBoostError`: what failed, the Hub's answer, what to do about it.

    The token, and what looks like one, is removed from the error and from those that it is chained to.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except SpatialBoostError:
        raise
    except Exception as error:
        # no connection, no answer or an incomplete answer: the error is one of the HTTP library that the client uses
        of_client = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib3")
        hide_token(error, token)
        if not of_client and not isinstance(error, HfHubHTTPError | HFValidationError | OSError | UnicodeError):
            raise
        raise _explained(what, error) from error


def hide_token(error: BaseException | None, token: str | bool | None) -> None:
    """Remove a token from the texts of an error and of all errors that it is chained to."""
    from huggingface_hub import get_token

    secrets = {each for each in (token, get_token()) if isinstance(each, str) and len(each) > 3}
    secrets |= {quote(each, safe="") for each in secrets} | {each.strip() for each in secrets}

    def hidden(value: Any) -> Any:
        if isinstance(value, bytes):
            return hidden(value.decode("latin-1")).encode("latin-1", "replace")
        if not isinstance(value, str):
            return value
        for secret in secrets:
            value = value.replace(secret, "***")
        return redact(value)

    seen: set[int] = set()
    pending = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        pending += [each.__cause__, each.__context__]
        each.args = tuple(map(hidden, each.args))
        for name in ("filename", "strerror", "object", "server_message"):
            if isinstance(value := getattr(each, name, None), str | bytes) and hidden(value) != value:
                setattr(each, name, hidden(value))


def _explained(what: str, error: Exception) -> SpatialBoostError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = getattr(getattr(error, "response", None), "status_code", None)
    cause: Any = error.__cause__
    advice = "Try again; what has been downloaded is kept."
    if isinstance(error, LocalEntryNotFoundError) and cause is not None and not _is_offline(cause):
        return _explained(what, cause)  # the Hub refused first; then the cache was searched
    if isinstance(error, GatedRepoError):
        advice = "Its owner must give you access: ask on its page, then log in (`hf auth login`) or pass `token`."
    elif isinstance(error, RevisionNotFoundError):
        advice = "The repository exists, but not this revision: check `revision`."
    elif isinstance(error, RepositoryNotFoundError):
        advice = "Check the name; for a private one log in (`hf auth login`) or pass `token`."
    elif status in (401, 403):
        advice = "Log in (`hf auth login`), or pass a `token` that may do this."
    elif isinstance(error, HFValidationError):
        advice = "Expected `user/name`."
    elif isinstance(error, LocalEntryNotFoundError):
        advice = "It is not in the cache: load it once with a network connection, or give `cache_dir`."
    return SpatialBoostError(f"{what}: {' '.join(plain(str(error)).split())} {advice}")


def _is_offline(error: BaseException | None) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled)
