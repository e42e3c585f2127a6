"""Pushing to and loading from a Hub over HTTP: huggingface_hub's own client, and a small server of its requests."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from hcnn import model_config
from hcnn.export.hub import HubNetwork

REPOSITORY, COMMIT, TOKEN = "somebody/something", "a" * 40, "hf_a_token_of_nobody"
RUN = {
    "network": "HierarchicalCNN",
    "model": asdict(model_config("hcnn_digits")),
    "data": "digits",
    "preprocessing": {"mean": [0.3], "std": [0.4], "size": [8, 8], "classes": list("0123456789")},
}


class Hub(ThreadingHTTPServer):
    """One repository in memory; whoever shows the token may write."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Requests(BaseHTTPRequestHandler):
    """The requests of push_to_hub and from_pretrained."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def log_message(self, format: str, *args: Any) -> None: ...

    def answer(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        page = f"{self.hub.url}/{REPOSITORY}"
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self.answer({"url": page})
        elif self.path == "/api/validate-yaml":
            header = json.loads(body)["content"].split("---")[1]
            errors = [] if "library_name: hcnn" in header else [{"message": "no library_name"}]
            self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif self.path == f"/api/models/{REPOSITORY}/preupload/main":
            named = [one["path"] for one in json.loads(body)["files"]]
            self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in named]})
        elif self.path == f"/api/models/{REPOSITORY}/commit/main":
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    self.hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.answer({"success": True, "commitOid": COMMIT, "commitUrl": f"{page}/commit/{COMMIT}"})
        else:
            self.answer({"error": "Not found"}, 404)

    def do_GET(self) -> None:
        start, _, name = self.path.rpartition("/")
        if start.startswith(f"/{REPOSITORY}/resolve/"):
            self.hub.asked.append(self.path)
            if data := self.hub.files.get(name):
                digest = hashlib.sha256(data).hexdigest()
                self.answer(data, ETag=f'"{digest}"', X_Repo_Commit=COMMIT)
                return
        self.answer({"error": "Not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def hub():
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def in_a_process(hub: Hub, home: Path, script: str, *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of a new Python that takes our server for the Hub."""
    env = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "PATH": "",
    }
    env["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # PyTorch's products of matrices round by their number
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, env=env, timeout=120
    )
    return done.returncode, done.stderr


PUSH = """
import sys
from hcnn.export.hub import HubNetwork
from huggingface_hub.errors import HfHubHTTPError
model = HubNetwork.from_pretrained(sys.argv[1])
try:
    model.push_to_hub(sys.argv[2], token="hf_of_somebody_else")
except HfHubHTTPError as error:
    assert error.response.status_code == 401, error
else:
    raise AssertionError("pushed with a wrong token")
model.push_to_hub(sys.argv[2])
"""
PULL = """
import sys, torch
from hcnn.export.hub import HubNetwork
model = HubNetwork.from_pretrained(sys.argv[1], revision=sys.argv[4])
with torch.no_grad():  # as below: with gradients other kernels compute, which round otherwise
    torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
"""


def test_a_pushed_network_comes_back_by_its_id(hub, tmp_path) -> None:
    model = HubNetwork(RUN).eval()
    model.save_pretrained(tmp_path / "saved")
    x = torch.randn(3, 1, 8, 8)
    torch.save(x, tmp_path / "x.pt")

    code, errors = in_a_process(hub, tmp_path / "pusher", PUSH, str(tmp_path / "saved"), REPOSITORY)
    assert code == 0, errors
    assert set(hub.files) == {"model.safetensors", "config.json", "README.md"}

    hub.asked.clear()
    files = (REPOSITORY, str(tmp_path / "x.pt"), str(tmp_path / "y.pt"), "v1.0")
    code, errors = in_a_process(hub, tmp_path / "puller", PULL, *files)
    assert code == 0, errors
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "y.pt"), model(x))
    assert set(hub.asked) == {f"/{REPOSITORY}/resolve/v1.0/{name}" for name in ("model.safetensors", "config.json")}

    hub.asked.clear()  # somebody replaces the weights by a pickle: it is not asked for
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    code, errors = in_a_process(hub, tmp_path / "another", PULL, *files)
    assert code == 1
    assert "EntryNotFound" in errors
    assert not any("pytorch_model.bin" in path for path in hub.asked)
