"""A local stand-in of the Hugging Face Hub: the part of its HTTP API that an upload uses, on loopback."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0" * 39 + "1"


class HubServer:
    """The repositories of the stand-in, and the requests that it got.

    `refuse` maps a step ("create", "preupload", "batch", "upload", "commit") to the status of its answer.
    """

    def __init__(self) -> None:
        self.url = ""
        self.refuse: dict[str, int] = {}
        self.steps: list[str] = []
        self.tokens: set[str | None] = set()
        self.created: list[dict[str, Any]] = []
        # By the name of the repository, such as "datasets/me/data": the files by path.
        self.files: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Return the status and the JSON of the answer to a request."""
        step, handle = next(
            ((name, handler) for pattern, name, handler in self._routes() if re.fullmatch(pattern, path)), ("", None)
        )
        if handle is None:
            # Such as a question about a repository that was not made.
            return 404, {"error": f"{method} {path} is not there"}
        self.steps.append(step)
        if status := self.refuse.get(step):
            return status, {"error": "refused by the test"}
        return 200, handle(path, body)

    def _routes(self) -> list[tuple[str, str, Any]]:
        return [
            (r"/api/repos/create", "create", self._create),
            (r"/api/validate-yaml", "validate", lambda path, body: {"warnings": [], "errors": []}),
            (r"/api/(models|datasets)/.+/preupload/main", "preupload", self._preupload),
            (r"/.+\.git/info/lfs/objects/batch", "batch", self._batch),
            (r"/objects/\w+", "upload", self._upload),
            (r"/api/(models|datasets)/.+/commit/main", "commit", self._commit),
        ]

    def _create(self, path: str, body: bytes) -> dict[str, Any]:
        repo = json.loads(body)
        self.created.append(repo)
        return {"url": f"{self.url}/{'datasets/' * (repo['type'] == 'dataset')}{repo['organization']}/{repo['name']}"}

    def _preupload(self, path: str, body: bytes) -> dict[str, Any]:
        """Weights are uploaded on their own, all other files in the commit."""
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in paths}
        return {"files": [{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in paths]}

    def _batch(self, path: str, body: bytes) -> dict[str, Any]:
        objects = json.loads(body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.objects:
                entry["actions"] = {"upload": {"href": f"{self.url}/objects/{entry['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def _upload(self, path: str, body: bytes) -> dict[str, Any]:
        digest = path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == digest
        self.objects[digest] = body
        return {}

    def _commit(self, path: str, body: bytes) -> dict[str, Any]:
        name = path.removeprefix("/api/").removeprefix("models/").removesuffix("/commit/main")
        files = self.files.setdefault(name, {})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        return {"commitUrl": f"{self.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "pullRequestUrl": None}


@contextlib.contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Serve a stand-in of the Hub on loopback inside the block."""
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, value = hub.answer(self.command, self.path.partition("?")[0], body)
            # Uploads of files go to another host than the Hub, without the token.
            if status == 200 and not self.path.startswith("/objects/"):
                hub.tokens.add(self.headers.get("Authorization"))
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
