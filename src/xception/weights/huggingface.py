"""Files of the Hugging Face hub, through huggingface_hub and its cache.

A name is hf-hub:OWNER/NAME[@REVISION][:FILE]. What the cache holds is taken without asking the
network, so that the same name gives the same weights, on-line or not; @REVISION names another
version. Repositories that timm wrote have a config.json with "architecture" and "pretrained_cfg"
(timm/models/_hub.py), which comes along.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from xception.errors import UsageError
from xception.weights.checksum import Checksum, check_file
from xception.weights.download import MAX_BYTES, UnreachableError
from xception.weights.header import parse_json
from xception.weights.wording import listed, quoted

HUB_PREFIX = "hf-hub:"
CONFIG_NAME = "config.json"
MAX_CONFIG_BYTES = 4 * 2**20  # 20,000 class names and their descriptions need about 2 MiB
MAX_LISTED = 20_000  # files of a repository
TIMEOUT = 30.0  # seconds for the hub's answer

# Names that libraries give to the weights, and then what a single file may end in; best first.
WEIGHT_NAMES = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.keras",
    "model.weights.h5",
    "model.h5",
    "pytorch_model.pth",
    "model.pth",
)
WEIGHT_ENDINGS = (".safetensors", ".keras", ".h5", ".pth", ".pt", ".bin")

_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=/ -]{0,249}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FORM = f"{HUB_PREFIX}OWNER/NAME[@REVISION][:FILE]"
_HUB_SAYS = "stated by the hub"


@dataclass(frozen=True, slots=True)
class HubName:
    """A checked name of a repository or of a file in it."""

    repository: str  # "owner/name"
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """From "hf-hub:..."; raises UsageError when it is not of that form."""
        shown = quoted(text, 200)
        place, _, file = text.removeprefix(HUB_PREFIX).partition(":")
        repository, at, revision = place.partition("@")
        parts = repository.split("/")
        if len(parts) != 2 or not all(_PART.fullmatch(part) for part in parts):
            raise UsageError(f"{shown}: is no repository of the hub; write {_FORM}")
        if at and not _is_plain(_REVISION, revision):
            raise UsageError(f"{shown}: {quoted(revision)!r} is no revision; write {_FORM}")
        if text.count(":") > 1 and not _is_plain(_FILE, file):
            raise UsageError(f"{shown}: {quoted(file)!r} is no file of a repository; write {_FORM}")
        if any(".." in part or "--" in part for part in parts):
            raise UsageError(f"{shown}: a repository's name has neither '..' nor '--' in it")
        return cls(repository, revision or None, file or None)

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{HUB_PREFIX}{self.repository}{at}{f':{self.file}' if self.file else ''}"

    @property
    def page(self) -> str:
        """Where a person finds the files."""
        return f"https://huggingface.co/{self.repository}/tree/{self.revision or 'main'}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in the cache.

    path: where it is
    name: with revision, a commit, and file
    config: the repository's config.json, None without one
    """

    path: Path
    name: HubName
    config: dict[str, Any] | None


def fetch(name: HubName, *, checksums: tuple[Checksum, ...], offline: bool) -> HubFile:
    """The file, from the cache or else from the hub.

    checksums: must fit beside the SHA-256 that the hub states

    Raises UsageError when the repository holds several files that may be meant; ValueError whose
    text says what is wrong and what to do (UnreachableError where the hub cannot be reached).
    """
    try:
        import huggingface_hub  # noqa: F401
    except ModuleNotFoundError:
        raise UnreachableError('needs huggingface_hub: pip install "xception[hub]"') from None
    found, is_complete = _cached(name)
    # Where the name leaves the file open, the cache may lack the one that comes first.
    may_be_another = found is not None and name.file is None and found.name.file != WEIGHT_NAMES[0]
    if found is None or not (is_complete or offline) or (may_be_another and not offline):
        try:
            wanted = name if found is None or may_be_another else found.name
            return _downloaded(wanted, checksums, offline)
        except UnreachableError:
            if found is None:
                raise
    _check(found.path, checksums, None)
    return found


def _is_plain(pattern: re.Pattern[str], text: str) -> bool:
    """Whether `text` fits and leads to no other folder."""
    inside = not any(part in ("", ".", "..") for part in text.split("/"))
    return inside and pattern.fullmatch(text) is not None


def _cached(name: HubName) -> tuple[HubFile | None, bool]:
    """What the cache has for `name`, and whether that includes the config or that there is none.

    The layout is the one that huggingface_hub documents.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.repository.replace('/', '--')}"
    revision = name.revision or constants.DEFAULT_REVISION
    try:
        reference = folder / "refs" / revision
        commit = reference.read_text("ascii").strip() if reference.is_file() else revision
        snapshot = folder / "snapshots" / commit
        if not _COMMIT.fullmatch(commit) or not snapshot.is_dir():
            return None, False
        if name.file is None:
            there = (path for path in snapshot.rglob("*") if path.is_file())
            file = choose_file(str(name), [path.relative_to(snapshot).as_posix() for path in there])
        else:
            file = name.file if (snapshot / name.file).is_file() else None
        if file is None:
            return None, False
        config = snapshot / CONFIG_NAME
        content = _read_config(config) if config.is_file() else None
        is_complete = config.is_file() or (folder / ".no_exist" / commit / CONFIG_NAME).is_file()
    except (OSError, UnicodeDecodeError):
        return None, False
    return HubFile(snapshot / file, HubName(name.repository, commit, file), content), is_complete


def choose_file(shown: str, names: Sequence[str]) -> str | None:
    """The file of weights among a repository's, None without one; UsageError when unclear."""
    for known in WEIGHT_NAMES:
        if known in names:
            return known
    for ending in WEIGHT_ENDINGS:
        fitting = sorted(name for name in names if name.endswith(ending))
        if len(fitting) > 1:
            raise UsageError(
                f"{shown}: holds {listed(fitting, most=5)}; say which by "
                f"{shown}:{quoted(fitting[0])}"
            )
        if fitting:
            return fitting[0]
    return None


def _downloaded(name: HubName, checksums: tuple[Checksum, ...], offline: bool) -> HubFile:
    from huggingface_hub import HfApi, constants

    if offline or constants.HF_HUB_OFFLINE:
        cache = quoted(constants.HF_HUB_CACHE, 500)
        raise UnreachableError(f"is not in the cache {cache}, and HF_HUB_OFFLINE is set")
    with _told(name):
        info = HfApi().model_info(
            name.repository, revision=name.revision, files_metadata=True, timeout=TIMEOUT
        )
    siblings = {
        sibling.rfilename: sibling
        for sibling in (info.siblings or [])[:MAX_LISTED]
        if _is_plain(_FILE, sibling.rfilename)
    }
    file = name.file or choose_file(str(name), list(siblings))
    if file is None or file not in siblings:
        what = "no file of weights" if file is None else f"no file {quoted(file)!r}"
        there = listed(sorted(siblings), most=10) or "nothing"
        raise ValueError(f"holds {what}, but {there}; say which by {name}:FILE")
    size = siblings[file].size
    if size is not None and size > MAX_BYTES:
        raise ValueError(f"has {size:,} bytes, more than the {MAX_BYTES:,} allowed")
    path = _fetched(name, file)
    commit = path.parents[len(PurePosixPath(file).parts) - 1].name
    listed_as = siblings[file].lfs if commit == info.sha else None
    _check(path, checksums, None if listed_as is None else listed_as.sha256)
    return HubFile(path, HubName(name.repository, commit, file), _config(name, siblings))


def _config(name: HubName, siblings: Mapping[str, Any]) -> dict[str, Any] | None:
    if CONFIG_NAME in siblings:
        is_bounded = (siblings[CONFIG_NAME].size or 0) <= MAX_CONFIG_BYTES
        return _read_config(_fetched(name, CONFIG_NAME)) if is_bounded else None
    with suppress(ValueError):
        _fetched(name, CONFIG_NAME)  # so that the cache knows that there is none
    return None


def _fetched(name: HubName, file: str) -> Path:
    with _told(name), _quiet_without_terminal():
        from huggingface_hub import constants, hf_hub_download

        return Path(
            hf_hub_download(
                name.repository,
                file,
                revision=name.revision or constants.DEFAULT_REVISION,
                library_name="xception",
            )
        )


def _check(path: Path, checksums: tuple[Checksum, ...], stated: str | None) -> None:
    """Compare with what is known; a file that differs is removed from the cache."""
    blob = path.resolve()  # in the cache, a link to a file that is named by its digest
    digits = stated or (blob.name if _SHA256.fullmatch(blob.name) else None)
    if digits is not None and _SHA256.fullmatch(digits):
        stated_one = Checksum(algorithm="sha256", digits=digits, evidence=_HUB_SAYS)
        checksums = (*checksums, stated_one)
    try:
        check_file(path, checksums)
    except ValueError as error:
        for copy in {path, blob}:
            copy.unlink(missing_ok=True)
        raise ValueError(f"{error}; it was removed from the cache: try again") from None


def _read_config(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None when it is none, for the weights can be used without it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            return None
        config = parse_json(content.decode("utf-8"), CONFIG_NAME)
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


@contextmanager
def _told(name: HubName) -> Iterator[None]:
    """Whatever huggingface_hub raises, as one of our errors."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise ValueError(
            f"is open only to whom its owners admit: ask at {name.page}, then log in by `hf auth "
            "login`"
        ) from None
    except RevisionNotFoundError:
        raise ValueError(f"has no such revision; {name.page} shows what there is") from None
    except RepositoryNotFoundError:
        raise ValueError(
            "is no repository of the hub, or a private one: check the name, or log in by `hf auth "
            "login`"
        ) from None
    except LocalEntryNotFoundError as error:  # also how it tells that there is no network
        raise _unreachable(error.__cause__ or error) from error
    except EntryNotFoundError:
        raise ValueError(f"has no such file; {name.page} shows what there is") from None
    except Exception as error:  # of httpx or requests, by its version; of xet; of the disk
        raise _unreachable(error) from error


def _unreachable(error: BaseException) -> UnreachableError:
    reason = quoted(" ".join(str(error).split()), 160) or type(error).__name__
    return UnreachableError(f"cannot be downloaded ({reason})")


@contextmanager
def _quiet_without_terminal() -> Iterator[None]:
    """No progress bar of huggingface_hub in a log file."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
