"""Configs of the other families: the fields of `UniSpeechSatConfig` with the family's defaults, and what it adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from unisat.config import CONFIG_NAME, UniSpeechSatConfig, other_family, read_object, show_fields


@dataclass(init=False)
class _FamilyConfig(UniSpeechSatConfig):
    """What the other families share: the vector for hidden frames is there only where a mask may be drawn."""

    @property
    def has_mask_embedding(self) -> bool:
        """Whether a mask may be drawn, over time or over channels."""
        return self.mask_time_prob > 0 or self.mask_feature_prob > 0


@dataclass(init=False)
class _AdapterConfig(_FamilyConfig):
    """Fields of the convolutional adapter behind the encoder (`unisat.conv_adapter`)."""

    add_adapter: bool = False
    adapter_kernel_size: int = 3
    adapter_stride: int = 2
    num_adapter_layers: int = 3
    output_hidden_size: int | None = None

    positive: ClassVar[tuple[str, ...]] = ("adapter_kernel_size", "adapter_stride", "num_adapter_layers")

    @property
    def last_size(self) -> int:
        """Width of the last hidden state: ``hidden_size``, or ``output_hidden_size`` behind an adapter."""
        return self.output_hidden_size or self.hidden_size if self.add_adapter else self.hidden_size

    def _check(self) -> None:
        size = self.output_hidden_size
        if size is not None and (type(size) is not int or not 0 < size <= 10**6):
            raise ValueError(f"output_hidden_size={size!r} must be a positive whole number, or None for hidden_size.")
        super()._check()

    def _rough_size(self) -> int:
        if not self.add_adapter:
            return super()._rough_size()
        width = self.last_size
        convs = self.num_adapter_layers * 2 * width**2 * self.adapter_kernel_size
        return super()._rough_size() + self.hidden_size * width + convs


@dataclass(init=False)
class Wav2Vec2Config(_AdapterConfig):
    """wav2vec 2.0, XLS-R and MMS (arXiv:2006.11477); see `UniSpeechSatConfig` for the fields that both have.

    Parameters
    ----------
    add_adapter : bool
        Puts convolutions behind the encoder, which make its frames fewer.
    adapter_kernel_size, adapter_stride, num_adapter_layers : int
        Kernel and stride of these convolutions, in frames, and their number.
    output_hidden_size : int, optional
        Their width; None is ``hidden_size``.
    """

    ctc_loss_reduction: str = "sum"

    model_type = "wav2vec2"


@dataclass(init=False)
class HubertConfig(_FamilyConfig):
    """HuBERT, also distilled and multilingual (arXiv:2106.07447); see `UniSpeechSatConfig` for what both have.

    Parameters
    ----------
    feat_proj_layer_norm : bool
        Whether the feature projection has a layer norm (DistilHuBERT's has none).
    conv_pos_batch_norm : bool
        Whether the positional convolution has a batch norm in front, and no weight norm (mHuBERT-147).
    """

    ctc_loss_reduction: str = "sum"
    feat_proj_layer_norm: bool = True
    conv_pos_batch_norm: bool = False

    model_type = "hubert"


@dataclass(init=False)
class WavLMConfig(_AdapterConfig):
    """WavLM (arXiv:2110.13900); see `UniSpeechSatConfig` and `Wav2Vec2Config` for the fields that they have, too.

    Parameters
    ----------
    num_buckets : int
        Number of distances between frames that the attention tells apart, those to both sides together.
    max_bucket_distance : int
        Distance in frames from which all distances are one.
    """

    num_buckets: int = 320
    max_bucket_distance: int = 800
    num_ctc_classes: int = 80

    model_type = "wavlm"
    positive: ClassVar[tuple[str, ...]] = (*_AdapterConfig.positive, "num_buckets", "max_bucket_distance")

    def _check(self) -> None:
        super()._check()
        if self.num_buckets < 4 or self.max_bucket_distance <= self.num_buckets // 4:
            raise ValueError(
                f"num_buckets={self.num_buckets} must be at least 4, and max_bucket_distance="
                f"{self.max_bucket_distance} beyond a quarter of it: shorter distances have a bucket each."
            )

    def _rough_size(self) -> int:
        return super()._rough_size() + self.num_buckets * self.num_attention_heads


@dataclass(init=False)
class Data2VecAudioConfig(_AdapterConfig):
    """data2vec for speech (arXiv:2202.03555); see `UniSpeechSatConfig` and `Wav2Vec2Config` for what they have, too.

    Layers are post-LN, and each convolution of the front end has a layer norm.

    Parameters
    ----------
    num_conv_pos_embeddings : int
        Number of positional convolutions, one behind the other.
    conv_pos_kernel_size : int
        Their kernel, in frames.
    """

    ctc_loss_reduction: str = "sum"
    feat_extract_norm: str = "layer"
    num_conv_pos_embeddings: int = 5
    conv_pos_kernel_size: int = 19

    model_type = "data2vec-audio"
    fixed: ClassVar[Mapping[str, Any]] = {"do_stable_layer_norm": False, "feat_extract_norm": "layer"}
    positive: ClassVar[tuple[str, ...]] = (*_AdapterConfig.positive, "conv_pos_kernel_size")

    @classmethod
    def tiny(cls, **changes: Any) -> Data2VecAudioConfig:
        """As `UniSpeechSatConfig.tiny`, with post-LN layers and five positional convolutions."""
        return super().tiny(**{"num_conv_pos_embeddings": 5, **changes})

    def _check(self) -> None:
        super()._check()
        if self.num_conv_pos_embeddings > 100:
            raise ValueError(
                f"num_conv_pos_embeddings={self.num_conv_pos_embeddings} is a number of layers here, at most 100; the "
                "kernel is conv_pos_kernel_size."
            )

    def _rough_size(self) -> int:
        taps = self.num_conv_pos_embeddings * self.conv_pos_kernel_size
        return super()._rough_size() + taps * self.hidden_size**2 // self.num_conv_pos_embedding_groups


@dataclass(init=False)
class UniSpeechConfig(_FamilyConfig):
    """UniSpeech, not -SAT (arXiv:2101.07597); see `UniSpeechSatConfig` for the fields that both have."""

    num_ctc_classes: int = 80
    replace_prob: float = 0.5

    model_type = "unispeech"


CONFIGS: dict[str, type[UniSpeechSatConfig]] = {
    kind.model_type: kind
    for kind in (
        UniSpeechSatConfig,
        Wav2Vec2Config,
        HubertConfig,
        WavLMConfig,
        Data2VecAudioConfig,
        UniSpeechConfig,
    )
}
"""The config of each family, by ``model_type``."""

for _kind in CONFIGS.values():
    show_fields(_kind)


class AutoConfig:
    """Reads a ``config.json`` of any family."""

    @staticmethod
    def from_pretrained(folder: str | Path, **changes: Any) -> UniSpeechSatConfig:
        """Give the config of the family that ``config.json``, in a folder or itself, names in ``model_type``.

        Raises
        ------
        ValueError
            If the family is none of those that unisat has, or a value breaks a rule.
        FileNotFoundError
            If the file does not exist.
        """
        path = Path(folder)
        path = path / CONFIG_NAME if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}; a checkpoint's folder holds a {CONFIG_NAME}.")
        family = read_object(path).get("model_type")
        if not isinstance(family, str) or family not in CONFIGS:
            raise ValueError(other_family(family))
        return CONFIGS[family].from_pretrained(path, **changes)
