"""From the name of weights that lie elsewhere to a checked file on this machine.

    resolve("xception.keras_imagenet").path     weights of published.py
    resolve("hf-hub:owner/name").path           a repository of the Hugging Face hub

Files of the hub lie in its own cache (HF_HOME, HF_HUB_CACHE), the others in `weights_cache()`.
What is there is checked again and used without the network; with HF_HUB_OFFLINE=1 nothing else is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xception.errors import ModelFileError, UsageError
from xception.weights.checksum import check_file
from xception.weights.download import UnreachableError, download
from xception.weights.huggingface import HUB_PREFIX, HubFile, HubName, fetch
from xception.weights.published import (
    PublishedFile,
    PublishedWeights,
    find_published,
    published_entry,
)
from xception.weights.transfer_bar import transfer_bar
from xception.weights.wording import quoted


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """A file that came from elsewhere.

    path: where it lies now
    address: where it came from, for the record: https, or hf-hub: with the commit
    config: the config.json beside it on the hub (timm's has "architecture" and "pretrained_cfg"),
        plain JSON to be checked before use; None without one
    published: what is known of it, None of a repository that is not in the list
    """

    path: Path
    address: str
    config: dict[str, Any] | None = None
    published: PublishedWeights | None = None


def weights_cache() -> Path:
    """Where downloaded weights are kept: $XCEPTION_CACHE, else ~/.cache/xception/weights."""
    return Path(os.environ.get("XCEPTION_CACHE") or "~/.cache/xception/weights").expanduser()


def is_elsewhere(source: str) -> bool:
    """Whether `resolve` is for this source; a file on this machine goes before a name."""
    return source.startswith((HUB_PREFIX, "https://", "http://")) or (
        find_published(source) is not None
    )


def resolve(source: str) -> Resolved:
    """The file that `source` names, downloaded unless it is here already, and checked.

    source: a name of `published_weights()`, or hf-hub:OWNER/NAME[@REVISION][:FILE]. Of https
        addresses, only those of published weights: of others nobody says what they should hold.

    Raises UsageError for a name that is none, and ModelFileError where the file cannot be had or
    is not the one that was published.
    """
    try:
        if source.startswith(HUB_PREFIX):
            return _of_hub(fetch(HubName.parse(source), checksums=(), offline=_is_offline()))
        return _published(_entry(source))
    except UnreachableError as error:
        raise ModelFileError(
            f"{quoted(source, 500)}: {error}; download it elsewhere and give the path of the file"
        ) from error
    except ValueError as error:
        raise ModelFileError(f"{quoted(source, 500)}: {error}") from error
    except OSError as error:
        raise ModelFileError(
            f"{quoted(source, 500)}: cannot be read from the cache ({error})"
        ) from error


def _entry(source: str) -> PublishedWeights:
    try:
        return published_entry(source)
    except ValueError as error:
        if source.startswith(("https://", "http://")):
            raise UsageError(
                f"{quoted(source, 500)}: only addresses of published weights are downloaded, as "
                "nothing tells what another file should be; download it yourself and give its "
                "path, or give hf-hub:OWNER/NAME"
            ) from None
        raise UsageError(quoted(error, 500)) from None


def _published(entry: PublishedWeights) -> Resolved:
    """The first of its files that is here, or else the first that can be fetched."""
    offline = _is_offline()
    for file in entry.files:
        found = _without_network(entry, file)
        if found is not None:
            return found
    reasons: list[str] = []
    for file in entry.files:
        try:
            return _with_network(entry, file, offline)
        except UnreachableError as error:
            reasons.append(f"{quoted(file.address, 500)} {error}")
    raise ModelFileError(f"{entry.name}: {'; '.join(reasons)}; {_by_hand(entry.files[-1])}")


def _without_network(entry: PublishedWeights, file: PublishedFile) -> Resolved | None:
    if file.is_on_hub:
        try:
            return _with_network(entry, file, offline=True)
        except UnreachableError:
            return None
    path = weights_cache() / file.file_name
    if not path.exists():
        return None
    try:
        check_file(path, file.checksums)
    except ValueError as error:
        # Downloads are checked before they get their name: somebody has put this one here.
        raise ModelFileError(
            f"{quoted(path, 500)}: {error}; it is not the file that was published: remove it to "
            "have that downloaded"
        ) from None
    except OSError as error:
        raise ModelFileError(
            f"{quoted(path, 500)}: cannot be read ({error.strerror or error})"
        ) from None
    return Resolved(path=path, address=file.address, published=entry)


def _with_network(entry: PublishedWeights, file: PublishedFile, offline: bool) -> Resolved:
    if file.is_on_hub:
        name = HubName.parse(file.address)
        return _of_hub(fetch(name, checksums=file.checksums, offline=offline), entry)
    path = weights_cache() / file.file_name
    if offline:
        raise UnreachableError("is not in the cache, and HF_HUB_OFFLINE is set")
    try:
        with transfer_bar(file.file_name) as progress:
            download(
                file.address,
                path,
                file_bytes=file.file_bytes,
                checksums=file.checksums,
                progress=progress,
            )
    except OSError as error:
        raise ModelFileError(
            f"{quoted(path, 500)}: cannot be written ({error.strerror or error}); make room, or "
            "set XCEPTION_CACHE to a folder that can be written"
        ) from None
    return Resolved(path=path, address=file.address, published=entry)


def _by_hand(file: PublishedFile) -> str:
    """What a person without a network here can do."""
    expected = f" ({', '.join(str(checksum) for checksum in file.checksums)})"
    expected = expected if file.checksums else ""
    if file.is_on_hub:
        name = HubName.parse(file.address)
        return f"download {name.file} from {name.page} elsewhere{expected} and give its path"
    return f"put {file.file_name} from there{expected} into {quoted(weights_cache(), 500)}"


def _of_hub(file: HubFile, entry: PublishedWeights | None = None) -> Resolved:
    return Resolved(path=file.path, address=str(file.name), config=file.config, published=entry)


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "true", "yes")
