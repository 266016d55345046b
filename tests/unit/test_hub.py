"""Bases from a hub on the loopback that is honest, broken, slow, cut short, or lying.

Each client is a fresh process, because huggingface_hub reads its environment when it is imported.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from explora.core.base.find import base_tokenizer, open_base
from explora.core.base.tokenizer import train_tokenizer
from explora.core.base.weights import load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEXT_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"

CLIENT = """
import json, sys, time
pause = time.sleep
time.sleep = lambda seconds: pause(min(seconds, 0.01))  # huggingface_hub waits longer before each retry
from explora.core.base.find import open_base
from explora.errors import WeightsError
try:
    print(json.dumps({"folder": str(open_base(sys.argv[1]).folder)}))
except WeightsError as error:
    print(json.dumps({"error": error.message, "hint": error.hint}))
assert "torch" not in sys.modules
"""

Answer = dict[str, Any]
Ask = Callable[..., Answer]


@dataclass
class Hub:
    """Just enough of the hub for hf_hub_download, with the temper of `mood`."""

    files: dict[str, bytes]
    mood: str = "honest"
    commit: str = COMMIT
    url: str = ""
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def asked(self, method: str = "") -> list[str]:
        """What was requested of the model, as `HEAD main/config.json`, since the last call."""
        found = [request.replace("/some/gpt2/resolve/", "") for request in self.requests]
        self.requests.clear()
        return [request for request in found if request.startswith(method) and "/api/" not in request]


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub = self.hub
        hub.requests.append(f"{self.command} {self.path}")
        if "/resolve/" in self.path:
            hub.tokens.add(self.headers.get("Authorization"))
        refusals = {
            "broken": (500, {}),
            "unknown model": (404, {"X-Error-Code": "RepoNotFound"}),
            "private": (401, {}),
            "gated": (403, {"X-Error-Code": "GatedRepo"}),
            "another kind of server": (200, {"Content-Length": "0"}),
        }
        if hub.mood in refusals:
            return self.reply(*refusals[hub.mood])
        if hub.mood == "slow":
            time.sleep(3)
        match = re.fullmatch(rf"/some/gpt2/resolve/(?:main|{hub.commit})/(.+)", self.path)
        if match is None:
            return self.reply(404, {"X-Error-Code": "RepoNotFound"})
        if match[1] not in hub.files:
            return self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.commit})
        body = hub.files[match[1]]
        tag = hashlib.sha256(body).hexdigest()
        size = str(len(body))
        if hub.mood == "cut short" and match[1].endswith(".safetensors"):
            body = body[: len(body) // 2]
        return self.reply(
            200, {"ETag": f'"{tag}"', "X-Repo-Commit": hub.commit, "Content-Length": size}, body
        )

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *arguments: object) -> None:
        pass  # a client that gave up waiting


def model_files(folder: Path, **options: Any) -> dict[str, bytes]:
    torch.manual_seed(1)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=300)
    GPT2LMHeadModel(config).save_pretrained(folder, **options)
    train_tokenizer(["the question and the answer"] * 9, 270).save(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(files=model_files(tmp_path / "model"))
    server = Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Ask:
    """Open a base in a fresh process whose hub is the one on the loopback."""

    def ask(name: str = "some/gpt2", **environment: str) -> Answer:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        fixed = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        fixed |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, name],
            env=inherited | fixed | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        answer: Answer = json.loads(done.stdout)
        return answer

    return ask


def tensors(folder: Path | str) -> dict[str, torch.Tensor]:
    model = load_model(open_base(str(folder)), dtype=torch.float32, device=torch.device("cpu"))
    return model.state_dict()


def same_model(a: Path | str, b: Path | str) -> bool:
    ours, others = tensors(a), tensors(b)
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


def test_a_name_that_may_mean_a_folder_is_told_to_be_none(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "merged").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "there is no local folder merged/nosuch either" in ask("merged/nosuch", HF_HUB_OFFLINE="1")["hint"]
    assert "there is no local folder" not in ask("elsewhere/nosuch", HF_HUB_OFFLINE="1")["hint"]


# An honest hub


def test_a_model_is_fetched_whole_and_of_one_commit(ask: Ask, hub: Hub, tmp_path: Path) -> None:
    folder = Path(ask()["folder"])
    assert same_model(folder, tmp_path / "model")
    assert base_tokenizer(open_base(str(folder))).vocab_size == 270
    needed = ["model.safetensors", "tokenizer.json", "generation_config.json", "tokenizer_config.json"]
    assert {file.name for file in folder.iterdir()} == {"config.json", *needed}
    assert hub.asked("GET") == ["GET main/config.json", *(f"GET {COMMIT}/{name}" for name in needed)]


def test_a_cache_without_settings_serves_when_the_hub_does_not(ask: Ask, hub: Hub) -> None:
    folder = Path(ask()["folder"])
    (folder / "tokenizer_config.json").unlink()  # as if another program had filled the cache
    assert ask(HF_HUB_OFFLINE="1")["folder"] == str(folder)


def test_a_cached_model_costs_one_question_and_offline_none(ask: Ask, hub: Hub) -> None:
    first = ask()
    hub.asked()
    assert ask() == first
    assert hub.asked() == ["HEAD main/config.json"]
    assert ask(HF_HUB_OFFLINE="1") == first
    assert hub.asked() == []


@pytest.mark.parametrize("mood", ["broken", "another kind of server"])
def test_a_cached_model_serves_when_the_hub_does_not(ask: Ask, hub: Hub, mood: str) -> None:
    first = ask()
    hub.mood = mood
    assert ask() == first


def test_a_new_commit_is_noticed(ask: Ask, hub: Hub, tmp_path: Path) -> None:
    old = Path(ask()["folder"])
    hub.commit = NEXT_COMMIT
    new = Path(ask()["folder"])
    assert (old.name, new.name) == (COMMIT, NEXT_COMMIT)
    assert same_model(old, new)


def test_a_short_name_stands_for_a_hub_id(ask: Ask, hub: Hub) -> None:
    answer = ask("distilgpt2")
    assert "there is no model distilbert/distilgpt2" in answer["error"]
    assert hub.asked() == ["HEAD /distilbert/distilgpt2/resolve/main/config.json"]


def test_the_token_is_sent(ask: Ask, hub: Hub) -> None:
    ask(HF_TOKEN="hf_secret")
    assert hub.tokens == {"Bearer hf_secret"}


def test_vocabulary_and_merges_are_fetched_where_there_is_no_single_file(ask: Ask, hub: Hub) -> None:
    state = json.loads(hub.files.pop("tokenizer.json"))["model"]
    hub.files["vocab.json"] = json.dumps(state["vocab"]).encode()
    hub.files["merges.txt"] = "\n".join(["#version: 0.2", *map(" ".join, state["merges"])]).encode()
    folder = ask()["folder"]
    assert base_tokenizer(open_base(folder)).vocab_size == 270
    assert ask(HF_HUB_OFFLINE="1")["folder"] == folder


def test_a_model_without_tokenizer_can_still_be_opened(ask: Ask, hub: Hub) -> None:
    del hub.files["tokenizer.json"]
    folder = ask()["folder"]
    assert ask(HF_HUB_OFFLINE="1")["folder"] == folder


def test_shards_are_fetched_through_their_index(ask: Ask, hub: Hub, tmp_path: Path) -> None:
    hub.files = model_files(tmp_path / "shards", max_shard_size="10KB")
    folder = ask()["folder"]
    assert len(list(Path(folder).glob("model-*.safetensors"))) > 2
    assert same_model(folder, tmp_path / "model")
    assert ask(HF_HUB_OFFLINE="1")["folder"] == folder


def test_a_local_folder_needs_no_hub(ask: Ask, hub: Hub, tmp_path: Path) -> None:
    assert ask(str(tmp_path / "model"))["folder"] == str(tmp_path / "model")
    assert hub.requests == []


# What the hub must not make us do


def test_an_index_that_leads_out_of_the_folder_fetches_nothing_more(ask: Ask, hub: Hub) -> None:
    del hub.files["model.safetensors"]
    index = {"weight_map": {"transformer.wte.weight": "../../other/gpt2/resolve/main/model.safetensors"}}
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    assert "not a safetensors file in its own folder" in ask()["error"]
    assert not [request for request in hub.asked() if "other" in request]


def test_the_weights_of_another_kind_of_model_are_never_fetched(ask: Ask, hub: Hub) -> None:
    hub.files["config.json"] = b'{"model_type": "bert"}'
    assert ask()["error"] == "some/gpt2 is not a GPT-2: its model_type is 'bert'"
    assert hub.asked("GET") == ["GET main/config.json"]


def test_pickled_weights_are_never_fetched(ask: Ask, hub: Hub) -> None:
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    answer = ask()
    assert answer["error"] == "some/gpt2 has no model.safetensors"
    assert "p, q = 'some/gpt2'" in answer["hint"]
    assert not [request for request in hub.asked() if ".bin" in request]


def test_a_repository_without_configuration_is_no_model(ask: Ask, hub: Hub) -> None:
    del hub.files["config.json"]
    assert ask()["error"] == "some/gpt2 has no config.json"


@pytest.mark.parametrize("config", [b"{", b"[]", b'{"model_type": "gpt2", "n_layer": 0}'])
def test_a_damaged_configuration_is_an_error(ask: Ask, hub: Hub, config: bytes) -> None:
    hub.files["config.json"] = config
    assert "error" in ask()
    assert hub.asked("GET") == ["GET main/config.json"]


def test_a_shard_that_the_hub_lacks_is_named(ask: Ask, hub: Hub, tmp_path: Path) -> None:
    hub.files = model_files(tmp_path / "shards", max_shard_size="10KB")
    lost = next(name for name in hub.files if name.startswith("model-00002"))
    del hub.files[lost]
    assert ask()["error"] == f"some/gpt2 lacks {lost}, which its index names"


# A hub that does not deliver


@pytest.mark.parametrize(
    ("mood", "error", "hint"),
    [
        ("unknown model", r"there is no model some/gpt2 at http://127", "HF_TOKEN"),
        ("private", r"there is no model some/gpt2 at http://127", "a private model needs HF_TOKEN"),
        ("gated", r"some/gpt2 is gated", "accept its terms at http://127.*/some/gpt2 and set HF_TOKEN"),
        ("broken", r"answers 500 for config\.json of some/gpt2", "try again later"),
        ("another kind of server", r"config\.json of some/gpt2 .* cannot be downloaded from", "HF_ENDPOINT"),
        ("slow", r"config\.json of some/gpt2 .* cannot be downloaded from .*timed out", "HF_ENDPOINT"),
    ],
)
def test_each_failure_says_what_and_what_to_do(ask: Ask, hub: Hub, mood: str, error: str, hint: str) -> None:
    hub.mood = mood
    started = time.monotonic()
    answer = ask(HF_HUB_ETAG_TIMEOUT="1")
    assert re.search(error, answer["error"])
    assert re.search(hint, answer["hint"])
    assert time.monotonic() - started < 15
    assert len(hub.asked("HEAD")) <= 2


def test_nobody_at_the_address_is_told_at_once(ask: Ask) -> None:
    answer = ask(HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot be downloaded from http://127.0.0.1:9" in answer["error"]
    assert "the embedded base and local folders need no network" in answer["hint"]


def test_offline_and_not_cached_names_the_file_and_the_cache(ask: Ask, hub: Hub, tmp_path: Path) -> None:
    answer = ask(HF_HUB_OFFLINE="1")
    assert "config.json of some/gpt2 is not in the cache" in answer["error"]
    assert str(tmp_path / "hf" / "hub") in answer["error"]
    assert "HF_HUB_OFFLINE" in answer["hint"]
    assert hub.requests == []


def test_half_a_download_is_an_error_and_never_taken_for_a_whole(ask: Ask, hub: Hub, tmp_path: Path) -> None:
    hub.mood = "cut short"
    assert "model.safetensors of some/gpt2 is not in the cache" in ask()["error"]
    assert "model.safetensors of some/gpt2 is not in the cache" in ask(HF_HUB_OFFLINE="1")["error"]
    hub.mood = "honest"
    assert same_model(ask()["folder"], tmp_path / "model")
