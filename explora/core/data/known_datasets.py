"""Data sets known by name: in $EXPLORA_DATA, else from a pinned public source on the Hugging Face hub.

`EXPLORA_DATA` is a folder with the folders quora, sst, cfimdb and sonnets, which contain CS224N's files.
Downloads go through huggingface_hub: HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and the timeouts
HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT have their usual meaning.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from explora.errors import DataError

VARIABLE = "EXPLORA_DATA"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a public source, with its exact size and checksum."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source of a data set; without `repo` there is no public download."""

    origin: str
    licence: str
    repo: str = ""
    revision: str = ""
    files: tuple[RemoteFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Located:
    """A data set on this machine: a folder or its only file, and its licence."""

    path: Path
    licence: str
    fetched: bool


_COURSE = (
    "the default project of Stanford's CS224N (https://github.com/cfifty/public_cs224n_gpt, folder data)"
)

# The build machine cannot reach the hub. Sizes and checksums come from public copies of the metadata of
# these repositories (for Quora, two independent ones). No download of the real files was tried.
SOURCES: dict[str, Source] = {
    "quora": Source(
        origin="Quora's first data set release, 404,290 question pairs in one file",
        licence="Quora's terms of service: non-commercial use",
        repo="aisuko/quora_duplicate_questions",
        revision="a14d27956a816dbb441515c1b732465fe5064092",
        files=(
            RemoteFile(
                name="quora_duplicate_questions.tsv",
                size=58_176_133,
                sha256="b3350dbb1d98db1f5abca85d736ba514bf4da253fae53939303d79fe921ec7c8",
            ),
        ),
    ),
    "sst": Source(
        origin="Stanford Sentiment Treebank, five classes (Socher et al. 2013)",
        licence="none stated by its authors; published for research",
        repo="SetFit/sst5",
        revision="e51bdcd8cd3a30da231967c1a249ba59361279a3",
        files=(
            RemoteFile(
                name="train.jsonl",
                size=1_323_698,
                sha256="46bde4fb5abc93ffbadfa9a9f67de17c08a2f535cfb5756c59188d070434f433",
            ),
            RemoteFile(
                name="dev.jsonl",
                size=171_422,
                sha256="4369df4d4229e736fa734af49b342c7d6002c4d8514d9c206a5aa26edc620b79",
            ),
            RemoteFile(
                name="test.jsonl",
                size=342_783,
                sha256="1384216112a34f3d70b6fa210762f3399bb080410c0456ac6e54a5cb413f04b2",
            ),
        ),
    ),
    "cfimdb": Source(origin=_COURSE, licence="none stated; film reviews from IMDb, for the course"),
    "sonnets": Source(
        origin=_COURSE, licence="the sonnets are in the public domain; the Folger edition is CC BY-NC 3.0"
    ),
}


def locate(name: str) -> Located:
    """Find a data set of `SOURCES`, and download it if needed; huggingface_hub draws the progress bar.

    Downloaded files are checked byte for byte each time. Raises DataError if the data set cannot be found or
    downloaded. A file that differs from its pinned checksum is deleted and raises DataError, too.
    """
    source = SOURCES[name]
    local = _local_folder(name)
    if local is not None:
        return Located(path=local, licence=source.licence, fetched=False)
    if not source.repo:
        hint = f"put its files into a folder {name} and set {VARIABLE} to the folder above it"
        raise DataError(f"{name} has no public source; its files come from {source.origin}", hint)
    paths = [_fetch(name, source, file) for file in source.files]
    path = paths[0] if len(paths) == 1 else paths[0].parent
    return Located(path=path, licence=source.licence, fetched=True)


def _local_folder(name: str) -> Path | None:
    root = os.environ.get(VARIABLE)
    if not root:
        return None
    if not Path(root).is_dir():
        raise DataError(
            f"{VARIABLE} is not a folder: {root}", f"unset {VARIABLE}, or set it to the data folder"
        )
    folder = Path(root) / name
    return folder if folder.is_dir() else None


def _fetch(name: str, source: Source, file: RemoteFile) -> Path:
    """Return the path of a file in the cache, downloaded if needed, and checked."""
    from huggingface_hub import constants, hf_hub_download

    where = f"{source.repo}/{file.name} on {constants.ENDPOINT}"
    try:
        fetched = hf_hub_download(source.repo, file.name, repo_type="dataset", revision=source.revision)
    except Exception as error:  # network, proxy, disk: the exceptions differ between versions of the client
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        hint = f"check the network, HF_ENDPOINT, HF_HUB_OFFLINE; or set {VARIABLE} to a folder with {name}/"
        raise DataError(f"{name} cannot be downloaded ({where}): {reason}", hint) from None
    path = Path(fetched)
    wrong = _difference(path, file)
    if wrong:
        blob = path.resolve()
        path.unlink()
        blob.unlink(missing_ok=True)
        hint = f"the file was deleted; try again, or set {VARIABLE} to a folder with {name}/"
        raise DataError(f"{name} differs from its pinned version ({where}): {wrong}", hint)
    return path


def _difference(path: Path, file: RemoteFile) -> str:
    """Return how a file differs from its pinned size and checksum; "" if it does not."""
    size = path.stat().st_size
    if size != file.size:
        return f"{file.size:,} bytes expected, {size:,} found"
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return "" if digest == file.sha256 else f"sha256 {file.sha256} expected, {digest} found"
