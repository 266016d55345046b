"""Download single files of a model from the Hugging Face hub, by huggingface_hub and its shared cache.

HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN and the timeouts HF_HUB_ETAG_TIMEOUT and
HF_HUB_DOWNLOAD_TIMEOUT have their usual meaning. Cached files are not downloaded again.
"""

from __future__ import annotations

import re
from pathlib import Path

from explora.errors import WeightsError

NEWEST = "main"


def fetch_file(hub_id: str, name: str, revision: str = NEWEST) -> Path | None:
    """Return the path of a file in the cache, downloaded if needed; None if the repository does not have it.

    With `NEWEST`, the hub is asked for the newest commit; if it does not answer, the cached file is used.
    With a commit, a cached file is used without a request. The parent folder of the path is named after the
    commit. Raises WeightsError, with the reason, if the file is neither cached nor available.
    """
    import huggingface_hub as hub

    cached = hub.try_to_load_from_cache(hub_id, name, revision=revision)
    if revision != NEWEST and cached is not None:
        return Path(cached) if isinstance(cached, str) else None  # the cache also records missing files
    try:
        if (
            cached is None and revision == NEWEST
        ):  # fails at once if the hub is unreachable, the next call after 20 s
            hub.get_hf_file_metadata(hub.hf_hub_url(hub_id, name))
        return Path(hub.hf_hub_download(hub_id, name, revision=revision))
    except hub.errors.LocalEntryNotFoundError as error:
        raise _explain(hub_id, name, error.__cause__ or error) from None
    except hub.errors.EntryNotFoundError:
        return None
    except Exception as error:  # network, proxy, disk: the exceptions differ between versions of the client
        raise _explain(hub_id, name, error) from None


def _explain(hub_id: str, name: str, error: BaseException) -> WeightsError:
    """Return the error that explains why a file could not be downloaded."""
    from huggingface_hub import constants, errors

    hub, what = constants.ENDPOINT, f"{name} of {hub_id}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return WeightsError(
            f"{what} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set",
            "run once without HF_HUB_OFFLINE to download it, or give a local folder as the model",
        )
    if isinstance(error, errors.GatedRepoError):
        return WeightsError(f"{hub_id} is gated", f"accept its terms at {hub}/{hub_id} and set HF_TOKEN")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return WeightsError(
            f"there is no model {hub_id} at {hub}, or it is private",
            "check the spelling; a private model needs HF_TOKEN, and a local folder its path",
        )
    if status is not None:
        return WeightsError(
            f"{hub} answers {status} for {what}",
            "this is an error or a refusal of the server; try again later",
        )
    reason = re.split(r"\.?\s*\n|\. ", str(error).strip())[0] or type(error).__name__
    return WeightsError(
        f"{what} is not in the cache and cannot be downloaded from {hub}: {reason}",
        "check the connection and HF_ENDPOINT; the embedded base and local folders need no network",
    )
