"""One file of a model from the Hugging Face hub, by huggingface_hub and its shared cache.

HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN and the timeouts HF_HUB_ETAG_TIMEOUT and
HF_HUB_DOWNLOAD_TIMEOUT mean what they mean everywhere else. What the cache holds is never fetched again.
"""

from __future__ import annotations

from pathlib import Path

from explora.errors import WeightsError

NEWEST = "main"


def fetch_file(hub_id: str, name: str, revision: str = NEWEST) -> Path | None:
    """Return the path of a file in the cache, downloaded if need be; None if the repository has none.

    With `NEWEST` the hub is asked which commit that is, and what is cached serves when it does not answer;
    with a commit, a cached file is used as it is. The parent of the path is named after the commit.
    Raises WeightsError, saying why, when the file cannot be had.
    """
    import huggingface_hub as hub

    cached = hub.try_to_load_from_cache(hub_id, name, revision=revision) if revision != NEWEST else None
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:  # the cache remembers that the repository has no such file
        return None
    try:
        return Path(hub.hf_hub_download(hub_id, name, revision=revision))
    except hub.errors.LocalEntryNotFoundError as error:
        raise _unreachable(hub_id, name, error.__cause__ or error) from None
    except hub.errors.EntryNotFoundError:
        return None
    except Exception as error:  # network, proxy, disk: each release of the client has its own kinds
        raise _failed(hub_id, name, error) from None


def _unreachable(hub_id: str, name: str, cause: BaseException) -> WeightsError:
    """Explain a file that is neither cached nor to be had."""
    from huggingface_hub import constants, errors

    if isinstance(cause, errors.OfflineModeIsEnabled):
        return WeightsError(
            f"{name} of {hub_id} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set",
            f"run `hf download {hub_id}` once without HF_HUB_OFFLINE, or give a local folder as the model",
        )
    if _status(cause) is not None:
        return _failed(hub_id, name, cause)
    return WeightsError(
        f"{name} of {hub_id} is not in the cache, and {constants.ENDPOINT} does not answer: {_reason(cause)}",
        "check the connection or HF_ENDPOINT; the embedded base and a local folder need no network",
    )


def _failed(hub_id: str, name: str, error: BaseException) -> WeightsError:
    """Explain an answer of the hub that is not the file."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return WeightsError(
            f"{hub_id} is gated", f"accept its terms at {constants.ENDPOINT}/{hub_id} and set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or _status(error) == 404:
        return WeightsError(
            f"there is no model {hub_id} at {constants.ENDPOINT}",
            "check the spelling; for a private model set HF_TOKEN; a local folder needs its path",
        )
    if (status := _status(error)) is not None:
        return WeightsError(
            f"{constants.ENDPOINT} answers {status} for {name} of {hub_id}",
            "the server is at fault or refuses; try again later",
        )
    return WeightsError(
        f"{name} of {hub_id} could not be downloaded whole: {_reason(error)}",
        "run the command again: what has arrived is kept",
    )


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of huggingface_hub carries."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: BaseException) -> str:
    first_line = (str(error).strip().splitlines() or [""])[0]
    return first_line or type(error).__name__
