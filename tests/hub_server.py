"""A Hub on loopback: the part of the Hugging Face Hub's HTTP API that `huggingface_hub` uses for models.

Repositories with commits, branches and pull requests; private and gated ones; downloads with redirects to another
path, ETags and ranges; uploads as regular files and through LFS; failures on demand. In memory, for tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, constants
from packaging.version import Version

OWNER, READER, STRANGER = "hf_owner", "hf_reader", "hf_stranger"  # tokens: may write, may read, has no rights
NAMES = {OWNER: "me", READER: "reader", STRANGER: "stranger"}
LFS_SUFFIXES = (".safetensors", ".bin")
OLD_HUB = Version(huggingface_hub.__version__) < Version("1.0")


class RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str, branch: str = "main") -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{message}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha


class Hub:
    """What the server holds, and what has been asked of it: `log` has `METHOD path` of each request."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[str] = []
        self.cut: deque[int] = deque()  # the next downloads of LFS files end after so many bytes
        self.fail: dict[str, int] = {}  # status for paths that match a pattern
        self.endpoint = ""
        self.cdn = ""  # under another name of this host, as the real one is another host
        self.tokens_on_cdn = 0

    def downloads(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [
            line.split("/")[-1].split("?")[0] for line in self.log if line.startswith("GET") and "/api/" not in line
        ]

    def repo(self, repo_id: str, token: str | None, *, write: bool = False) -> Repo:
        repo = self.repos.get(repo_id)
        if token is not None and token not in NAMES:
            raise RefusalError(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.private and token not in (OWNER, READER)):
            # a private repository gets the same answer as one that does not exist
            raise RefusalError(401 if token is None else 404, "RepoNotFound", "Repository not found")
        if write and token != OWNER:
            raise RefusalError(403, "", "you don't have the rights to write to this repository")
        return repo


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        url = urlsplit(self.path)
        path, query = url.path, parse_qs(url.query)  # quoted: a branch may have a slash in its name
        self.hub.log.append(f"{self.command} {unquote(path)}")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b"".join(self.chunks())
        try:
            for pattern, status in self.hub.fail.items():
                if re.search(pattern, path):
                    raise RefusalError(status, "", "the test asked for this failure")
            self.route(path, query, body)
        except RefusalError as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.send(refusal.status, {"error": refusal.message}, headers)

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def token(self) -> str | None:
        found = self.headers.get("Authorization", "")
        return found.removeprefix("Bearer ") or None

    def send(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        routes = {
            r"/api/repos/create": self.create_repo,
            r"/api/validate-yaml": self.validate_yaml,
            r"/api/models/([^/]+/[^/]+)": self.model_info,
            r"/api/models/([^/]+/[^/]+)/revision/(.+)": self.model_info,
            r"/api/models/([^/]+/[^/]+)/tree/([^/]+)": self.tree,
            r"/api/models/([^/]+/[^/]+)/branch/(.+)": self.create_branch,
            r"/api/models/([^/]+/[^/]+)/preupload/(.+)": self.preupload,
            r"/api/models/([^/]+/[^/]+)/commit/(.+)": self.commit,
            r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": self.lfs_batch,
            r"/lfs/([0-9a-f]{64})": self.lfs_put,
            r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": self.resolve,
            r"/cdn/([0-9a-f]{64})": self.cdn,
        }
        for pattern, action in routes.items():
            if match := re.fullmatch(pattern, path):
                return action(*map(unquote, match.groups()), query=query, body=body)
        raise RefusalError(404, "", f"this server has no {self.command} {path}")

    # --- API

    def create_repo(self, *, query: Any, body: bytes) -> None:
        if self.token() != OWNER:
            raise RefusalError(401 if self.token() is None else 403, "", "you don't have the rights to create this")
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or NAMES[OWNER]}/{asked['name']}"
        url = {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.hub.repos:
            return self.send(409, {"error": "You already created this model repo", **url})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repos[repo_id] = repo = Repo(private=bool(private))
        repo.commit({".gitattributes": b""}, "initial commit")
        return self.send(200, url)

    def validate_yaml(self, *, query: Any, body: bytes) -> None:
        licence = ModelCard(json.loads(body)["content"]).data.get("license")
        if licence in (None, "mit", "apache-2.0", "other"):
            return self.send(200, {"errors": [], "warnings": []})
        return self.send(400, {"errors": [{"message": '"license" must be one of apache-2.0, mit, other'}]})

    def model_info(self, repo_id: str, revision: str = "main", *, query: Any, body: bytes) -> None:
        repo = self.hub.repo(repo_id, self.token())
        sha = repo.resolve(revision)
        siblings = [{"rfilename": name} for name in repo.commits[sha]]
        self.send(200, {"id": repo_id, "sha": sha, "private": repo.private, "siblings": siblings})

    def tree(self, repo_id: str, revision: str, *, query: Any, body: bytes) -> None:
        repo = self.hub.repo(repo_id, self.token())
        files = repo.commits[repo.resolve(revision)]
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in files.items()
        ]
        self.send(200, entries)

    def create_branch(self, repo_id: str, branch: str, *, query: Any, body: bytes) -> None:
        repo = self.hub.repo(repo_id, self.token(), write=True)
        if branch in repo.branches:
            raise RefusalError(409, "", "Reference already exists")
        repo.branches[branch] = repo.branches["main"]
        self.send(200, {})

    def preupload(self, repo_id: str, revision: str, *, query: Any, body: bytes) -> None:
        repo = self.hub.repo(repo_id, self.token(), write="create_pr" not in query)
        repo.resolve(revision)
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self.send(200, {"files": modes})

    def lfs_batch(self, repo_id: str, *, query: Any, body: bytes) -> None:
        self.hub.repo(repo_id, self.token())
        objects = []
        for asked in json.loads(body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.blobs:
                answer["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{asked['oid']}", "header": {}}}
            objects.append(answer)
        self.send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def lfs_put(self, oid: str, *, query: Any, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusalError(400, "", "content is not what its name says")
        self.hub.blobs[oid] = body
        self.send(200)

    def commit(self, repo_id: str, revision: str, *, query: Any, body: bytes) -> None:
        pull_request = "create_pr" in query
        repo = self.hub.repo(repo_id, self.token(), write=not pull_request)
        files = dict(repo.commits[repo.resolve(revision)])
        title = ""
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise RefusalError(400, "", f"no operation {key}")
        number = sum(name.startswith("refs/pr/") for name in repo.branches) + 1
        branch = f"refs/pr/{number}" if pull_request else revision
        sha = repo.commit(files, title, branch)
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{sha}"}
        if pull_request:
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{repo_id}/discussions/{number}"
        self.send(200, answer)

    # --- downloads

    def resolve(self, repo_id: str, revision: str, name: str, *, query: Any, body: bytes) -> None:
        repo = self.hub.repo(repo_id, self.token())
        sha = repo.resolve(revision)
        headers = {"X-Repo-Commit": sha}
        if repo.gated and self.token() not in (OWNER, READER):
            raise RefusalError(
                401 if self.token() is None else 403, "GatedRepo", f"Access to model {repo_id} is restricted"
            )
        if (data := repo.commits[sha].get(name)) is None:
            self.send(404, b"", headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        oid = hashlib.sha256(data).hexdigest()
        if not name.endswith(LFS_SUFFIXES):
            self.content(data, headers | {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
            return
        self.hub.blobs[oid] = data
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        self.send(302, b"", headers | linked | {"Location": f"{self.hub.cdn}/cdn/{oid}"})

    def cdn(self, oid: str, *, query: Any, body: bytes) -> None:
        self.hub.tokens_on_cdn += self.token() is not None
        self.content(self.hub.blobs[oid], {"ETag": f'"{oid}"'})

    def content(self, data: bytes, headers: dict[str, str]) -> None:
        """The bytes, or the range of them that is asked for; cut off in the middle if the test wants it so."""
        start, end, status = 0, len(data), 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end, status = int(match[1]), min(int(match[2] or len(data) - 1) + 1, len(data)), 206
            headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        part = data[start:end]
        if self.command == "GET" and "/cdn/" in self.path and self.hub.cut:
            part = part[: self.hub.cut.popleft()]
            headers = headers | {"Content-Length": str(end - start)}
            self.close_connection = True
        self.send(status, part, {"Accept-Ranges": "bytes", **headers})


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub on a free port of loopback, for as long as the context."""
    hub = Hub()
    handler = type("OfThisHub", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    hub.cdn = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # huggingface_hub 0.34 has a second name for it
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        # both libraries keep one client, which keeps the endpoint of when it was made
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.endpoint)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", OWNER)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its retries
        yield server
        if OLD_HUB:
            huggingface_hub.utils.reset_sessions()  # a session that was opened offline stays offline
