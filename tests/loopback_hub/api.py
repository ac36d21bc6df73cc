"""The API of the loopback Hub: what huggingface_hub asks for when it creates, commits, tags, lists and resolves."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import time
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.loopback_hub.answers import Answers
from tests.loopback_hub.repositories import Commit, Entry, Repository, is_lfs
from tests.loopback_hub.server import TOKEN
from tests.loopback_hub.xet import find_xet_hash

_API = re.compile(r"^/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/([a-z-]+)(?:/([^/]+))?(?:/(.*))?)?$")
_RESOLVE = re.compile(r"^/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
_LFS = re.compile(r"^/(datasets/|spaces/)?([^/]+/[^/]+)\.git/info/lfs/objects/(batch|verify)$")
_WRITING = ("preupload", "commit", "tag", "xet-write-token")


class ApiHandler(Answers):
    """Routes requests; each `_method` below answers one operation."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.body())

    def do_DELETE(self) -> None:
        self._answer(self.body())

    def _answer(self, body: bytes) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.met_a_fault():
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            self._whoami()
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate_card(json.loads(body))
        elif match := _LFS.match(path):
            self._lfs(match, json.loads(body))
        elif match := _RESOLVE.match(path):
            kind, repo, revision, name = match.groups()
            self._resolve((kind or "models").rstrip("/"), repo, revision, name)
        elif match := _API.match(path):
            self._api(*match.groups(), body=body)
        else:
            self.error(404, "", "no such page")

    @property
    def _token(self) -> str | None:
        return self.headers.get("Authorization")

    def _may_write(self) -> bool:
        if self._token == f"Bearer {TOKEN}":
            return True
        self.error(401, "", "Invalid username or password." if self._token else "Unauthorized")
        return False

    def _find(self, kind: str, repo: str, revision: str | None) -> tuple[Repository, Commit] | None:
        """The repository and commit asked for; None after the error has been sent."""
        repository = self.hub.repositories.get((kind, repo))
        if repository is None or (repository.private and self._token != f"Bearer {TOKEN}"):
            self.error(404 if self._token else 401, "RepoNotFound", "Repository not found")
            return None
        commit = repository.find(revision)
        if commit is None:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository, commit

    def _whoami(self) -> None:
        if self._may_write():
            self.json({"type": "user", "name": "tester", "fullname": "Tester", "orgs": [], "auth": {}})

    def _create(self, asked: dict[str, Any]) -> None:
        if not self._may_write():
            return
        kind, repo = f"{asked.get('type', 'model')}s", f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo}"
        if (kind, repo) in self.hub.repositories:
            self.json({"error": "You already created this repo", "url": url}, 409)
            return
        if kind == "spaces" and asked.get("sdk") not in ("docker", "gradio", "static"):
            self.error(400, "", '"sdk" must be one of [gradio, docker, static]')
            return
        private = asked.get("private") is True or asked.get("visibility") == "private"
        self.hub.repositories[kind, repo] = Repository(kind, repo, private)
        self.json({"url": url, "name": repo})

    def _validate_card(self, asked: dict[str, Any]) -> None:
        match = re.match(r"---\n(.*?)\n---\n", asked["content"], re.DOTALL)
        try:
            metadata = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            self.json({"errors": [{"message": str(error)}], "warnings": []}, 400)
            return
        errors = [] if metadata.get("license") else [{"message": '"license" is missing'}]
        self.json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _lfs(self, match: re.Match[str], asked: dict[str, Any]) -> None:
        found = self._find((match[1] or "models").rstrip("/"), match[2], None)
        if found is None or not self._may_write():
            return
        if match[3] == "verify":
            ok = self.hub.objects.path(asked["oid"]).is_file()
            self.json({}) if ok else self.error(404, "", "not uploaded")
            return
        objects = []
        for item in asked["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.store_url}/objects/{item['oid']}"},
                "verify": {"href": f"{self.hub.url}{match[0].removesuffix('batch')}verify"},
            }
            known = self.hub.objects.path(item["oid"]).is_file()
            objects.append({**item} if known else {**item, "actions": actions})
        self.json({"transfer": "basic", "objects": objects})

    def _api(
        self, kind: str, repo: str, what: str | None, revision: str | None, below: str | None, body: bytes
    ) -> None:
        if what in _WRITING and self.command == "POST" and not self._may_write():
            return
        found = self._find(kind, repo, None if what in ("refs", "xet-write-token") else revision)
        if found is None:
            return
        repository, commit = found
        if what in (None, "revision"):
            self._info(repository, commit)
        elif what == "tree":
            self._tree(commit, below or "")
        elif what == "paths-info":
            asked = parse_qs(body.decode()).get("paths") or []
            self.json([self._entry(n, commit.files[n]) for n in asked if n in commit.files])
        elif what == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head.id}
            tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repository.tags.items()]
            self.json({"branches": [branch], "converts": [], "tags": tags})
        elif what == "preupload":
            self._preupload(commit, json.loads(body))
        elif what == "commit":
            self._commit(repository, body)
        elif what == "tag":
            self._tag(repository, commit, json.loads(body))
        elif what in ("xet-write-token", "xet-read-token"):
            self._xet_token()
        else:
            self.error(404, "", "no such page")

    def _info(self, repository: Repository, commit: Commit) -> None:
        siblings = [{"rfilename": name} for name in commit.files]
        self.json({"id": repository.id, "sha": commit.id, "private": repository.private, "gated": repository.gated,
                   "lastModified": "2026-01-01T00:00:00.000Z", "siblings": siblings, "tags": [],
                   "downloads": 0, "likes": 0})  # fmt: skip

    def _tree(self, commit: Commit, below: str) -> None:
        whole = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        prefix = f"{below}/" if below else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, entry in sorted(commit.files.items()):
            if not name.startswith(prefix):
                continue
            folders = name.removeprefix(prefix).split("/")[:-1]
            for depth in range(len(folders) if whole else min(len(folders), 1)):
                path = prefix + "/".join(folders[: depth + 1])
                entries[path] = {"type": "directory", "path": path, "size": 0, "oid": entry.oid}
            if whole or not folders:
                entries[name] = self._entry(name, entry)
        if prefix and not entries:
            self.error(404, "EntryNotFound", "Entry not found")
            return
        self.json(list(entries.values()))

    def _entry(self, name: str, entry: Entry) -> dict[str, Any]:
        lfs = {"lfs": {"oid": entry.sha256, "size": entry.size, "pointerSize": 134}} if entry.lfs else {}
        return {"type": "file", "path": name, "size": entry.size, "oid": entry.oid, **lfs}

    def _preupload(self, commit: Commit, asked: dict[str, Any]) -> None:
        files = []
        for item in asked["files"]:
            mode = "lfs" if is_lfs(item["path"], item["size"]) else "regular"
            there = commit.files.get(item["path"])
            oid = None if there is None else there.sha256 if there.lfs else there.oid
            files.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.json({"files": files})

    def _commit(self, repository: Repository, body: bytes) -> None:
        if self.fault == "conflict":
            repository.commit("somebody else's", {**repository.head.files})
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        with repository.lock:
            if header.get("parentCommit") not in (None, repository.head.id):
                self.error(412, "", "A commit has happened since. Please refresh and try again.")
                return
            files = dict(repository.head.files)
            for line in lines:
                key, value = line["key"], line["value"]
                try:
                    if key == "file":
                        content = base64.b64decode(value["content"], validate=True)
                        stored = self.hub.objects.store(io.BytesIO(content), len(content))
                        files[value["path"]] = self.hub.objects.entry(stored.sha256, lfs=False)
                    elif key == "lfsFile":
                        files[value["path"]] = self._large(value["oid"], value["size"])
                    elif key == "deletedFile":
                        del files[value["path"]]
                    elif key == "deletedFolder":
                        files = {n: e for n, e in files.items() if not n.startswith(value["path"].rstrip("/") + "/")}
                except (KeyError, FileNotFoundError, binascii.Error) as error:
                    self.error(400, "", f"bad operation {key}: {error!r}")
                    return
            commit = repository.commit(header["summary"], files)
        if self.fault == "drop":  # committed, but the client never hears of it
            self.close_connection = True
            return
        self.json(
            {"success": True, "commitOid": commit.id, "commitUrl": f"{self.hub.url}/{repository.id}/commit/{commit.id}"}
        )

    def _large(self, sha256: str, size: int) -> Entry:
        """An LFS file by its SHA-256, from the store of large files or of Xet."""
        if self.hub.objects.path(sha256).is_file():
            return self.hub.objects.entry(sha256, lfs=True)
        if self.hub.xet_store is None or find_xet_hash(self.hub.xet_store, sha256) is None:
            raise FileNotFoundError(sha256)
        return Entry(sha256, size, sha256[:40], lfs=True)

    def _tag(self, repository: Repository, commit: Commit, asked: dict[str, Any]) -> None:
        if asked["tag"] in repository.tags:
            self.error(409, "", f"Tag {asked['tag']} already exists")
            return
        repository.tags[asked["tag"]] = commit.id
        self.json({})

    def _xet_token(self) -> None:
        if self.hub.xet_store is None:
            self.error(404, "", "no Xet here")
            return
        url, token, expires = f"local://{self.hub.xet_store}", "loopback", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
        self.json({"casUrl": url, "accessToken": token, "exp": expires}, headers=headers)

    def _resolve(self, kind: str, repo: str, revision: str, name: str) -> None:
        found = self._find(kind, repo, revision)
        if found is None:
            return
        repository, commit = found
        if repository.gated and self._token != f"Bearer {TOKEN}":
            self.error(403 if self._token else 401, "GatedRepo", f"Access to {kind[:-1]} {repo} is restricted.")
            return
        entry = commit.files.get(name)
        if entry is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.id}
            self.json({"error": "Entry not found"}, 404, headers)
            return
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{entry.oid}"'}
        if not entry.lfs:
            self.send_file(self.hub.objects.path(entry.sha256), headers)
            return
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size),
                    "Location": f"{self.hub.store_url}/objects/{entry.sha256}"}  # fmt: skip
        if self.hub.xet_store is not None and (xet_hash := find_xet_hash(self.hub.xet_store, entry.sha256)):
            route = f"{self.hub.url}/api/{kind}/{repo}/xet-read-token/{commit.id}"
            headers |= {"X-Xet-Hash": xet_hash, "X-Xet-Refresh-Route": route}
        self.send(302, b"", headers)
