"""The published ImageNet weights of these networks: where they are and what is known of them.

A digest stands here only where somebody said it in public; `Checksum.evidence` tells who. Sources:
keras/src/applications/xception.py of Keras 3.15, timm/models/xception.py and xception_aligned.py
of timm 1.0.31, the documentation and release notes of both, and the pages of timm's repositories
on the Hugging Face hub.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from xception.models.preprocessing import Preprocessing
from xception.weights.checksum import Checksum
from xception.weights.huggingface import HUB_PREFIX

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/xception/"
_TIMM_RELEASES = "https://github.com/rwightman/pytorch-image-models/releases/download/"

_KERAS_SAYS = "stated by keras/src/applications/xception.py"
_FILE_NAME_SAYS = "in the publisher's file name, by torch.hub's convention"
_COPIES_SAY = "of two copies in public repositories, which have the size that Keras announces"
_HUB_PAGE_SAYS = "stated on the file's page on the hub"
_TIMM_DOCS_SAY = "timm's documentation of its models"
_TIMM_NEWS_SAY = "timm's release notes"
_KERAS_NOTE = (
    "Keras states the size and the scaling (x / 127.5 - 1), not how pictures are brought to it"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFile:
    """One file with the weights.

    address: an https address, or "hf-hub:OWNER/NAME[@REVISION]:FILE"
    file_bytes: its exact size, None when it is not known
    checksums: all must fit; none for a file on the hub means that only what the hub itself says
        of its files (their SHA-256) is checked
    """

    address: str
    file_bytes: int | None = None
    checksums: tuple[Checksum, ...] = ()

    @property
    def is_on_hub(self) -> bool:
        """Whether huggingface_hub fetches it."""
        return self.address.startswith(HUB_PREFIX)

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.address.replace(":", "/").rpartition("/")[2]

    @property
    def sha256(self) -> str | None:
        """The whole SHA-256, where it is known."""
        whole = [c.digits for c in self.checksums if c.algorithm == "sha256" and c.is_whole]
        return whole[0] if whole else None


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedWeights:
    """Weights that users know by name.

    name, aliases: what `create_model(pretrained=...)` and the commands take
    network: its name in `list_models()`
    files: the same weights; where the first cannot be reached, the next is tried
    num_classes: logits; 0 without a last layer
    licence: of the weights, as their publisher says
    preprocessing: how pictures were prepared when the publisher measured them
    top1: share of ImageNet's validation pictures named right, None where the publisher does not say
    top1_source: where he does
    note: what else to know
    """

    name: str
    network: str
    publisher: str
    files: tuple[PublishedFile, ...]
    num_classes: int
    licence: str
    preprocessing: Preprocessing
    aliases: tuple[str, ...] = ()
    top1: float | None = None
    top1_source: str = ""
    note: str = ""


def _timm_preprocessing(crop_fraction: float) -> Preprocessing:
    return Preprocessing(crop_fraction=crop_fraction, interpolation="bicubic")


def _timm_on_hub(repository: str, *checksums: Checksum) -> PublishedFile:
    """repository: "NAME[@COMMIT]"; a commit is given where its whole number is known"""
    return PublishedFile(
        address=f"{HUB_PREFIX}timm/{repository}:model.safetensors", checksums=checksums
    )


def _timm_release(path: str, file_bytes: int, *checksums: Checksum) -> PublishedFile:
    """A file of the time before the hub, whose name ends in the first digits of its SHA-256."""
    digits = path.rpartition("-")[2].removesuffix(".pth")
    in_name = Checksum(algorithm="sha256", digits=digits, evidence=_FILE_NAME_SAYS)
    return PublishedFile(
        address=_TIMM_RELEASES + path, file_bytes=file_bytes, checksums=(in_name, *checksums)
    )


_PUBLISHED = (
    PublishedWeights(
        name="xception.keras_imagenet",
        network="xception",
        publisher="Keras",
        files=(
            PublishedFile(
                address=f"{_KERAS}xception_weights_tf_dim_ordering_tf_kernels.h5",
                file_bytes=91_884_032,
                checksums=(
                    Checksum(
                        algorithm="md5",
                        digits="0a58e3b7378bc2990ea3b43d5981f1f6",
                        evidence=_KERAS_SAYS,
                    ),
                    Checksum(
                        algorithm="sha256",
                        digits="c5bf1c05b020c4177164039b854c3ef92b16b73384734647c1f0ad5cf79f6975",
                        evidence=_COPIES_SAY,
                    ),
                ),
            ),
        ),
        num_classes=1000,
        licence="MIT",
        preprocessing=Preprocessing(),
        top1=0.790,
        top1_source="the documentation of keras.applications.xception",
        note=_KERAS_NOTE,
    ),
    PublishedWeights(
        name="xception.keras_imagenet_notop",
        network="xception",
        publisher="Keras",
        files=(
            PublishedFile(
                address=f"{_KERAS}xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
                file_bytes=83_683_744,
                checksums=(
                    Checksum(
                        algorithm="md5",
                        digits="b0042744bf5b25fce3cb969f33bebb97",
                        evidence=_KERAS_SAYS,
                    ),
                ),
            ),
        ),
        num_classes=0,
        licence="MIT",
        preprocessing=Preprocessing(),
        note=f"without the last layer, for features and fine-tuning; {_KERAS_NOTE}",
    ),
    PublishedWeights(
        name="legacy_xception.tf_in1k",
        aliases=("xception.tf_in1k", "xception-43020ad28"),
        network="xception",
        publisher="timm, from Cadene's pretrained-models.pytorch",
        files=(
            _timm_release(
                "v0.1-cadene/xception-43020ad28.pth",
                91_675_053,
                Checksum(
                    algorithm="sha256",
                    digits="43020ad2812c333d9f8e202b9fef94e579d07addb6582d69a1f68bbaec21aa90",
                    evidence="of a copy in a public repository, begins as the file name says",
                ),
            ),
        ),
        num_classes=1000,
        licence="Apache-2.0",
        preprocessing=_timm_preprocessing(0.8975),
        top1=0.7905,
        top1_source=_TIMM_DOCS_SAY,
        note="Keras's weights as ported to PyTorch, whose padding and epsilon differ",
    ),
    PublishedWeights(
        name="xception41.tf_in1k",
        network="xception41",
        publisher="timm, from TensorFlow's DeepLab",
        files=(
            _timm_on_hub("xception41.tf_in1k@2dd4221154563cec010f641b675fb4a06376ff9b"),
            _timm_release("v0.1-weights/tf_xception_41-e6439c97.pth", 108_422_028),
        ),
        num_classes=1000,
        licence="Apache-2.0",
        preprocessing=_timm_preprocessing(0.903),
        top1=0.7854,
        top1_source=_TIMM_DOCS_SAY,
    ),
    PublishedWeights(
        name="xception65.tf_in1k",
        network="xception65",
        publisher="timm, from TensorFlow's DeepLab",
        files=(
            _timm_on_hub("xception65.tf_in1k"),
            _timm_release("v0.1-weights/tf_xception_65-c9ae96e8.pth", 160_536_780),
        ),
        num_classes=1000,
        licence="Apache-2.0",
        preprocessing=_timm_preprocessing(0.903),
        top1=0.7955,
        top1_source=_TIMM_DOCS_SAY,
    ),
    PublishedWeights(
        name="xception65.ra3_in1k",
        network="xception65",
        publisher="timm",
        files=(_timm_on_hub("xception65.ra3_in1k@ae9e1377bca4c1d5ce324a5e010f7bc72bc322a4"),),
        num_classes=1000,
        licence="Apache-2.0",
        preprocessing=_timm_preprocessing(0.94),
        top1=0.8317,
        top1_source=_TIMM_NEWS_SAY,
    ),
    PublishedWeights(
        name="xception71.tf_in1k",
        network="xception71",
        publisher="timm, from TensorFlow's DeepLab",
        files=(
            _timm_on_hub("xception71.tf_in1k"),
            _timm_release("v0.1-weights/tf_xception_71-8eec7df1.pth", 170_295_556),
        ),
        num_classes=1000,
        licence="Apache-2.0",
        preprocessing=_timm_preprocessing(0.903),
        top1=0.7988,
        top1_source=_TIMM_DOCS_SAY,
    ),
    PublishedWeights(
        name="xception41p.ra3_in1k",
        network="xception41p",
        publisher="timm",
        files=(
            _timm_on_hub(
                "xception41p.ra3_in1k@327b9de3a26a7077952e38fe40e9c811b1bba6d1",
                Checksum(
                    algorithm="sha256",
                    digits="84cc7268d4d0973769ac78db2c1d07e5bbfbcab2447d6f1df3f7b755ba7b2dea",
                    evidence=_HUB_PAGE_SAYS,
                ),
            ),
        ),
        num_classes=1000,
        licence="Apache-2.0",
        preprocessing=_timm_preprocessing(0.94),
        top1=0.82,
        top1_source=_TIMM_NEWS_SAY,
    ),
    PublishedWeights(
        name="xception65p.ra3_in1k",
        network="xception65p",
        publisher="timm",
        files=(_timm_on_hub("xception65p.ra3_in1k"),),
        num_classes=1000,
        licence="Apache-2.0",
        preprocessing=_timm_preprocessing(0.94),
        top1=0.8314,
        top1_source=_TIMM_NEWS_SAY,
    ),
)

_BY_NAME = {name: entry for entry in _PUBLISHED for name in (entry.name, *entry.aliases)}
_BY_ADDRESS = {
    file.address: entry for entry in _PUBLISHED for file in entry.files if not file.is_on_hub
}


def published_weights() -> tuple[PublishedWeights, ...]:
    """All of them, by network."""
    return _PUBLISHED


def published_names() -> list[str]:
    """Every name and alias."""
    return [name for entry in _PUBLISHED for name in (entry.name, *entry.aliases)]


def published_entry(name: str) -> PublishedWeights:
    """The weights of that name, alias or https address.

    Raises ValueError that proposes the nearest name.
    """
    entry = find_published(name)
    if entry is not None:
        return entry
    near = difflib.get_close_matches(name, _BY_NAME, n=1)
    known = ", ".join(entry.name for entry in _PUBLISHED)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {known}"
    raise ValueError(f"there are no published weights named {name!r}; {hint}")


def find_published(name: str) -> PublishedWeights | None:
    """As `published_entry`, None where there are none."""
    return _BY_NAME.get(name) or _BY_ADDRESS.get(name)
