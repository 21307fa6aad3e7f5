"""A server that speaks the Hub's HTTP API over real files, for the real client to talk to (models only).

It keeps repositories with commits, branches, private and gated ones, and large files beside git as LFS does. Files
are served as the Hub serves them: small ones from git with their blob id as ETag, large ones by a redirect to another
host, with their sha256 and in ranges. What went over the line is in `HubServer.log`; `cut` breaks a download off, and
`corrupt` changes what is sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["HubServer", "serve"]

LFS_SUFFIXES = {".safetensors", ".bin", ".pt", ".png", ".jpg"}
"""As the Hub's .gitattributes name them; so is everything larger than this."""
LFS_BYTES = 10_000_000


@dataclass(frozen=True)
class Blob:
    """One version of a file: its content lies in the server's folder, under its sha256."""

    sha256: str
    size: int
    git_oid: str
    lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass
class Repo:
    owner: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob]) -> str:
        listing = json.dumps([self.branches.get(branch), sorted((name, blob.etag) for name, blob in files.items())])
        sha = hashlib.sha1(f"{listing}{len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass(frozen=True)
class Served:
    """One request: what was asked, and how many bytes of a file were sent."""

    method: str
    path: str
    range: str | None
    authorized: bool
    status: int
    sent: int


class HubServer:
    """The server's state; `serve` starts one.

    Args:
        folder: for the content of files.
        users: access token -> user name.
    """

    def __init__(self, folder: Path, users: dict[str, str]) -> None:
        self.folder, self.users = folder, users
        self.repos: dict[str, Repo] = {}
        self.log: list[Served] = []
        self.cut: dict[str, list[int]] = {}
        """File name -> after how many bytes its next downloads break off."""
        self.corrupt: set[str] = set()
        """Names of files of which one bit is flipped on the way."""
        self.endpoint = ""
        self.cdn = ""

    # -- for tests -----------------------------------------------------------------------------------

    def add(self, name: str, files: dict[str, bytes] | Path, *, branch: str = "main", **options: Any) -> str:
        """A commit with these files, or those of a folder, and no others; makes the repository. Gives its sha."""
        if isinstance(files, Path):
            found = sorted(path for path in files.rglob("*") if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in found}
        repo = self.repos.setdefault(name, Repo(owner=name.split("/")[0], **options))
        return repo.commit(branch, {path: self.store(path, content) for path, content in files.items()})

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[name]
        sha = repo.resolve(revision)
        assert sha is not None
        return {path: self.content(blob) for path, blob in repo.commits[sha].items()}

    def downloads(self, file: str) -> list[Served]:
        """The GET requests that sent bytes of a file of this name."""
        sent = [served for served in self.log if served.method == "GET" and served.status in (200, 206)]
        return [served for served in sent if served.path.endswith(f"/{file}")]

    # -- content -------------------------------------------------------------------------------------

    def store(self, path: str, content: bytes) -> Blob:
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / sha256).write_bytes(content)
        return self.blob(path, sha256, len(content))

    def blob(self, path: str, sha256: str, size: int) -> Blob:
        content = (self.folder / sha256).read_bytes()
        lfs = Path(path).suffix in LFS_SUFFIXES or size > LFS_BYTES
        if lfs:  # git itself holds but a pointer
            content = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Blob(sha256, size, git_oid, lfs)

    def content(self, blob: Blob) -> bytes:
        return (self.folder / blob.sha256).read_bytes()


@contextmanager
def serve(folder: Path, users: dict[str, str] | None = None) -> Iterator[HubServer]:
    """Run a server on a free port of this machine."""
    hub = HubServer(folder, users or {})

    class Handler(_Handler):
        server_hub = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    hub.cdn = f"http://localhost:{server.server_port}/cdn"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):
    """An answer with an error, as the Hub words it in headers."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, *_: Any) -> None:
        """Tests look at `HubServer.log`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    # -- who asks what -------------------------------------------------------------------------------

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        try:
            for method, pattern, answer in _ROUTES:
                match = re.fullmatch(pattern, url.path)
                if match and self.command in method:
                    answer(self, *(unquote(part) for part in match.groups()), body=body)
                    return
            raise _Refused(404, f"no such endpoint: {self.command} {url.path}")
        except _Refused as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self._send(error.status, json.dumps({"error": str(error)}).encode(), headers)

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    @property
    def user(self) -> str | None:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if not token:
            return None
        if scheme != "Bearer" or token not in self.server_hub.users:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return self.server_hub.users[token]

    def _repo(self, name: str, *, content: bool = False) -> Repo:
        """Raises _Refused where it is not there for who asks."""
        user, repo = self.user, self.server_hub.repos.get(name)
        if repo is None or (repo.private and user != repo.owner):
            raise _Refused(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if content and repo.gated and user not in {repo.owner, *repo.readers}:
            raise _Refused(401 if user is None else 403, f"Access to model {name} is restricted.", "GatedRepo")
        return repo

    def _own(self, name: str) -> Repo:
        """Raises _Refused where who asks may not write."""
        repo = self._repo(name)
        if self.user is None:
            raise _Refused(401, "Invalid username or password.")
        if self.user != repo.owner:
            raise _Refused(403, "You don't have the rights to write to this repository")
        return repo

    def _listing(self, repo: Repo, revision: str) -> tuple[str, dict[str, Blob]]:
        sha = repo.resolve(revision)
        if sha is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repo.commits[sha]

    # -- reading -------------------------------------------------------------------------------------

    def model_info(self, name: str, revision: str = "main", body: bytes = b"") -> None:
        repo = self._repo(name)
        sha, files = self._listing(repo, revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(files)]
        if "blobs" in self.query:
            for sibling in siblings:
                blob = files[sibling["rfilename"]]
                sibling |= {"size": blob.size, "blobId": blob.git_oid}
                if blob.lfs:
                    sibling["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 130}
        gated = "auto" if repo.gated else False
        info = {"_id": "0", "id": name, "modelId": name, "sha": sha, "private": repo.private, "gated": gated}
        self._send_json({**info, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0, "disabled": False})

    def tree(self, name: str, revision: str, body: bytes = b"") -> None:
        _, files = self._listing(self._repo(name), revision)
        rows: list[dict[str, Any]] = []
        for path, blob in sorted(files.items()):
            rows.append({"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid})
            if blob.lfs:
                rows[-1]["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
        self._send_json(rows)

    def resolve(self, name: str, revision: str, path: str, body: bytes = b"") -> None:
        sha, files = self._listing(self._repo(name, content=True), revision)
        if path not in files:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        blob = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.git_oid}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            location = f"{self.server_hub.cdn}/{blob.sha256}/{path}"
            linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size), "Location": location}
            self._send(302, b"", headers | linked)
        else:
            self._send_file(path, blob, headers)

    def cdn(self, sha256: str, path: str, body: bytes = b"") -> None:
        size = (self.server_hub.folder / sha256).stat().st_size
        self._send_file(path, Blob(sha256, size, "", True), {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    def _send_file(self, path: str, blob: Blob, headers: dict[str, str]) -> None:
        hub, content = self.server_hub, self.server_hub.content(blob)
        name = path.split("/")[-1]
        if name in hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            status, start = 206, int(match[1])
            headers["Content-Range"] = f"bytes {start}-{blob.size - 1}/{blob.size}"
        limits = hub.cut.get(name) if self.command == "GET" else None
        self._send(status, content[start:], headers, cut=limits.pop(0) if limits else None)

    def whoami(self, body: bytes = b"") -> None:
        if self.user is None:
            raise _Refused(401, "Invalid username or password.")
        self._send_json({"type": "user", "name": self.user, "auth": {"accessToken": {"role": "write"}}})

    # -- writing -------------------------------------------------------------------------------------

    def create_repo(self, body: bytes) -> None:
        asked, user = json.loads(body), self.user
        owner = asked.get("organization") or user
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        if owner != user:
            raise _Refused(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        name = f"{owner}/{asked['name']}"
        url = {"url": f"{self.server_hub.endpoint}/{name}", "name": name}
        if name in self.server_hub.repos:
            self._send(409, json.dumps({**url, "error": "You already created this model repo"}).encode())
            return
        repo = Repo(owner=user, private=asked.get("visibility") == "private")
        repo.commit("main", {".gitattributes": self.server_hub.store(".gitattributes", b"*.safetensors filter=lfs\n")})
        self.server_hub.repos[name] = repo
        self._send_json(url)

    def create_branch(self, name: str, branch: str, body: bytes) -> None:
        repo = self._own(name)
        if branch in repo.branches:
            raise _Refused(409, f"Reference already exists: {branch}")
        repo.branches[branch], _ = self._listing(repo, json.loads(body or b"{}").get("startingPoint", "main"))
        self._send_json({})

    def validate_yaml(self, body: bytes) -> None:
        head = json.loads(body)["content"].split("---\n")
        wrong = [] if len(head) > 2 and "license:" in head[1] else [{"message": "the card's metadata has no license"}]
        self._send_json({"errors": [], "warnings": wrong})

    def preupload(self, name: str, revision: str, body: bytes) -> None:
        _, files = self._listing(self._own(name), revision)
        answers = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            lfs = Path(path).suffix in LFS_SUFFIXES or file["size"] > LFS_BYTES
            there = files[path].etag if path in files else None
            mode = "lfs" if lfs else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": there})
        self._send_json({"files": answers})

    def lfs_batch(self, name: str, body: bytes) -> None:
        self._own(name)
        hub, objects = self.server_hub, json.loads(body)["objects"]
        for item in objects:
            if not (hub.folder / item["oid"]).is_file():
                upload = {"href": f"{hub.endpoint}/lfs/{item['oid']}"}
                item["actions"] = {"upload": upload, "verify": {"href": f"{hub.endpoint}/lfs/{item['oid']}/verify"}}
        self._send_json({"transfer": "basic", "objects": objects}, "application/vnd.git-lfs+json")

    def lfs_upload(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "The content does not have the sha256 that it was announced with")
        (self.server_hub.folder / oid).write_bytes(body)
        self._send(200, b"")

    def lfs_verify(self, oid: str, body: bytes) -> None:
        file = self.server_hub.folder / oid
        if not file.is_file() or file.stat().st_size != json.loads(body)["size"]:
            raise _Refused(404, "The object was not uploaded")
        self._send_json({})

    def commit(self, name: str, revision: str, body: bytes) -> None:
        repo = self._own(name)
        if revision not in repo.branches:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = dict(repo.commits[repo.branches[revision]])
        lines = [json.loads(line) for line in body.splitlines()]
        if not lines or not lines[0]["value"]["summary"]:
            raise _Refused(400, "A commit needs a summary")
        for line in lines[1:]:
            value, key = line["value"], line["key"]
            if key == "file":
                files[value["path"]] = self.server_hub.store(value["path"], base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if not (self.server_hub.folder / value["oid"]).is_file():
                    raise _Refused(400, f"{value['path']} was not uploaded")
                files[value["path"]] = self.server_hub.blob(value["path"], value["oid"], value["size"])
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise _Refused(400, f"unknown operation {key}")
        sha = repo.commit(revision, files)
        url = f"{self.server_hub.endpoint}/{name}/commit/{sha}"
        self._send_json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    # -- sending -------------------------------------------------------------------------------------

    def _send_json(self, value: Any, kind: str = "application/json") -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": kind})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        sent = content if cut is None else content[:cut]
        sent = b"" if self.command == "HEAD" else sent
        self.server_hub.log.append(
            Served(
                self.command,
                urlsplit(self.path).path,
                self.headers.get("Range"),
                "Authorization" in self.headers,
                status,
                len(sent),
            )
        )
        self.wfile.write(sent)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


_NAME = r"([^/]+/[^/]+)"
_ROUTES: list[tuple[set[str], str, Any]] = [
    ({"GET"}, rf"/api/models/{_NAME}", _Handler.model_info),
    ({"GET"}, rf"/api/models/{_NAME}/revision/([^/]+)", _Handler.model_info),
    ({"GET"}, rf"/api/models/{_NAME}/tree/([^/]+)", _Handler.tree),
    ({"GET"}, r"/api/whoami-v2", _Handler.whoami),
    ({"GET", "HEAD"}, rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ({"GET", "HEAD"}, r"/cdn/(\w+)/(.+)", _Handler.cdn),
    ({"POST"}, r"/api/repos/create", _Handler.create_repo),
    ({"POST"}, r"/api/validate-yaml", _Handler.validate_yaml),
    ({"POST"}, rf"/api/models/{_NAME}/branch/([^/]+)", _Handler.create_branch),
    ({"POST"}, rf"/api/models/{_NAME}/preupload/([^/]+)", _Handler.preupload),
    ({"POST"}, rf"/api/models/{_NAME}/commit/([^/]+)", _Handler.commit),
    ({"POST"}, rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ({"PUT"}, r"/lfs/(\w+)", _Handler.lfs_upload),
    ({"POST"}, r"/lfs/(\w+)/verify", _Handler.lfs_verify),
]
