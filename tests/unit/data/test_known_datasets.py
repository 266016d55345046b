"""Named data sets: $EXPLORA_DATA, and a hub on the loopback that is honest, broken, slow, or lying.

Each fetch runs in a fresh process, because huggingface_hub reads its environment when it is imported.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import TASKS
from explora.core.data import known_datasets as datasets
from explora.core.data.splits import load_split
from explora.errors import DataError

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    name: "".join(json.dumps({"text": f"{name} {i}", "label": i % 5}) + "\n" for i in range(count)).encode()
    for name, count in {"train.jsonl": 9, "dev.jsonl": 4, "test.jsonl": 5}.items()
}

SCRIPT = """
import json, sys, time
time.sleep = lambda seconds: None  # huggingface_hub tries again five times, and waits longer each time
from explora.core.data import splits as data
from explora.core.data import known_datasets as datasets
from explora.core.config.concerns import DataConfig
from explora.errors import DataError
files = tuple(datasets.RemoteFile(**file) for file in json.loads(sys.argv[1]))
datasets.SOURCES["sst"] = datasets.Source(
    origin="a test", licence="none", repo="some/sst", revision=sys.argv[2], files=files)
try:
    located = datasets.locate("sst")
    tables = {split: data.load_split("sentiment", DataConfig(data="sst"), split, 1) for split in data.SPLITS}
    texts = {split: [row.values["sentence"] for row in tables[split].rows] for split in tables}
    print(json.dumps({"path": str(located.path), "fetched": located.fetched, "texts": texts}))
except DataError as error:
    print(json.dumps({"error": error.message, "hint": error.hint}))
"""


@dataclass
class Hub:
    """Just enough of the hub for hf_hub_download, with the temper of `mood`."""

    mood: str = "honest"
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    requests: list[str] = field(default_factory=list)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        hub = self.hub
        hub.requests.append(f"{self.command} {self.path}")
        match = re.fullmatch(rf"/datasets/some/sst/resolve/{REVISION}/(.+)", self.path)
        if hub.mood == "broken":
            self.send_error(500)
            return
        if match is None or match[1] not in hub.files:
            self.send_error(404)
            return
        body = hub.files[match[1]]
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(FILES[match[1]]).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        if hub.mood == "slow":
            time.sleep(3)
        if hub.mood == "cut":
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *arguments: object) -> None:
        pass  # a client that gave up waiting


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path):
    def fetch(files: dict[str, bytes] = FILES, **environment: str) -> dict:
        pinned = [
            {"name": name, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for name, body in files.items()
        ]
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != datasets.VARIABLE
        }
        fixed = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_ETAG_TIMEOUT": "2"}
        fixed |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        run = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT, json.dumps(pinned), REVISION],
            env=inherited | fixed | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)  # one line of ours alone: nothing else was printed

    return fetch


def cached(tmp_path: Path) -> list[str]:
    """What later runs could take from the cache."""
    root = tmp_path / "hf" / "hub"
    return sorted(path.name for path in root.rglob("*") if path.parent.parent.name == "snapshots")


def test_an_honest_hub(fetch, hub: Hub, tmp_path: Path) -> None:
    answer = fetch()
    assert answer["fetched"]
    assert {split: len(texts) for split, texts in answer["texts"].items()} == {
        "train": 9,
        "dev": 4,
        "test": 5,
    }
    assert answer["texts"]["dev"][3] == "dev.jsonl 3"
    assert Path(answer["path"]).is_relative_to(tmp_path / "hf")
    assert all("resolve/" + REVISION in request for request in hub.requests)
    hub.requests.clear()
    assert fetch() == answer
    assert hub.requests == []  # what is cached is never asked for again
    hub.mood = "broken"
    assert fetch(HF_HUB_OFFLINE="1") == answer


def test_one_file_is_split_by_the_seed(fetch, hub: Hub) -> None:
    hub.files = {"train.jsonl": FILES["train.jsonl"]}
    answer = fetch({"train.jsonl": FILES["train.jsonl"]})
    assert "no test split" in answer["error"]


def test_offline_with_an_empty_cache(fetch, hub: Hub) -> None:
    answer = fetch(HF_HUB_OFFLINE="1")
    assert "sst cannot be downloaded (some/sst/train.jsonl on http://127.0.0.1" in answer["error"]
    assert "HF_HUB_OFFLINE" in answer["hint"]
    assert hub.requests == []


def test_a_broken_hub(fetch, hub: Hub, tmp_path: Path) -> None:
    hub.mood = "broken"
    answer = fetch()
    assert "sst cannot be downloaded" in answer["error"]
    assert "500" in answer["error"]
    assert cached(tmp_path) == []
    hub.mood = "honest"
    assert fetch()["fetched"]


def test_a_file_that_is_gone(fetch, hub: Hub) -> None:
    del hub.files["dev.jsonl"]
    assert "some/sst/dev.jsonl" in fetch()["error"]


def test_nobody_answers(fetch) -> None:
    assert "sst cannot be downloaded" in fetch(HF_ENDPOINT="http://127.0.0.1:9")["error"]


def test_a_slow_hub_is_given_up_in_bounded_time(fetch, hub: Hub, tmp_path: Path) -> None:
    hub.mood = "slow"
    start = time.monotonic()
    answer = fetch(HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert time.monotonic() - start < 20
    assert "sst cannot be downloaded" in answer["error"]
    assert cached(tmp_path) == []


@pytest.mark.parametrize("lie", ["other bytes", "more bytes"])
def test_a_lying_hub(fetch, hub: Hub, tmp_path: Path, lie: str) -> None:
    right = FILES["dev.jsonl"]
    hub.files["dev.jsonl"] = right.replace(b"dev", b"DEV") if lie == "other bytes" else right + right
    answer = fetch()
    assert "sst differs from its pinned version (some/sst/dev.jsonl" in answer["error"]
    assert ("sha256" if lie == "other bytes" else f"{len(right)} bytes expected") in answer["error"]
    assert cached(tmp_path) == ["train.jsonl"]
    assert len(list((tmp_path / "hf").rglob("blobs/*"))) == 1
    hub.files = dict(FILES)
    assert fetch()["texts"]["dev"][0] == "dev.jsonl 0"


def test_a_hub_that_hangs_up(fetch, hub: Hub, tmp_path: Path) -> None:
    hub.mood = "cut"
    assert "sst cannot be downloaded" in fetch()["error"]
    assert cached(tmp_path) == []


def test_a_cached_file_that_has_changed_is_noticed(fetch, hub: Hub) -> None:
    path = Path(fetch()["path"]) / "dev.jsonl"
    path.resolve().write_bytes(FILES["dev.jsonl"].replace(b"0", b"1"))
    hub.mood = "broken"
    assert "sst differs from its pinned version" in fetch()["error"]
    hub.mood = "honest"
    assert fetch()["texts"]["dev"][0] == "dev.jsonl 0"


# --- without a hub ---


def test_the_local_folder_goes_before_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "quora").mkdir()
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path))
    located = datasets.locate("quora")
    assert (located.path, located.fetched) == (tmp_path / "quora", False)
    (tmp_path / "quora" / "dev.csv").write_text("sentence1,sentence2,label\na,b,1\nc,,0\n")
    with pytest.raises(DataError, match="empty"):  # one's own files are read as strictly as ever
        load_split("paraphrase", DataConfig(data="quora"), "dev", 1)


@pytest.mark.parametrize("name", ["cfimdb", "sonnets"])
def test_without_a_public_source_the_error_says_where_to_get_it(
    monkeypatch, tmp_path: Path, name: str
) -> None:
    for value in ("", str(tmp_path)):
        monkeypatch.setenv(datasets.VARIABLE, value)
        with pytest.raises(DataError, match="CS224N") as caught:
            datasets.locate(name)
        assert datasets.VARIABLE in caught.value.hint
        assert name in caught.value.hint


def test_a_variable_that_names_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="EXPLORA_DATA is not a folder"):
        datasets.locate("sst")


def test_what_is_pinned_is_whole() -> None:
    assert list(datasets.SOURCES) == ["quora", "sst", "cfimdb", "sonnets"]
    for source in datasets.SOURCES.values():
        assert source.licence
        assert bool(source.repo) == bool(source.revision) == bool(source.files)
        assert not source.repo or re.fullmatch("[0-9a-f]{40}", source.revision)
        for file in source.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256), file.name
            assert file.size > 0
    assert not set(datasets.SOURCES) & set(TASKS)


def test_bad_rows_of_a_pinned_file_are_left_out_and_reported(monkeypatch, tmp_path: Path) -> None:
    """Quora's release has three questions that are empty, and nobody can mend a pinned file."""
    path = tmp_path / "quora_duplicate_questions.tsv"
    rows = "".join(f"{i}\t1\t2\tWhat is {i}?\t{'' if i == 7 else 'And that?'}\t0\n" for i in range(20))
    path.write_text("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n" + rows)
    located = datasets.Located(path=path, licence="none", fetched=True)
    monkeypatch.setattr(datasets, "locate", lambda name: located)
    tables = [load_split("paraphrase", DataConfig(data="quora"), split, 1) for split in ("train", "dev")]
    assert [len(table.rows) for table in tables] == [17, 2]
    assert all("question2" in table.skipped[0] for table in tables)
