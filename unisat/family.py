"""The other families on the backbone of `unisat.model`: wav2vec 2.0, HuBERT, WavLM, data2vec-audio and UniSpeech.

A class here says what its family has another of; all else is inherited, with its documentation. Names of classes, of
files and of weights are those of ``transformers``. ``AutoModel`` and its like look into ``config.json`` for the family.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from unisat import checkpoint as files
from unisat.config import FAMILIES, UniSpeechSatConfig
from unisat.configs import (
    AutoConfig,
    Data2VecAudioConfig,
    HubertConfig,
    UniSpeechConfig,
    Wav2Vec2Config,
    WavLMConfig,
)
from unisat.contrastive import ContrastivePreTraining
from unisat.heads import (
    UniSpeechSatForAudioFrameClassification,
    UniSpeechSatForCTC,
    UniSpeechSatForSequenceClassification,
)
from unisat.model import Encoder, UniSpeechSatModel
from unisat.outputs import BaseModelOutput
from unisat.positions import NormedPositionalConvEmbedding, PositionalConvStack
from unisat.pretrained import HUB, UniSpeechSatPreTrainedModel
from unisat.pretraining import UniSpeechSatForPreTraining  # noqa: F401 - `AutoModel` finds it by its name
from unisat.wavlm import WavLMEncoder
from unisat.xvector import UniSpeechSatForXVector


class _OtherPreTrainedModel(UniSpeechSatPreTrainedModel):
    """What the other families share: the vector for hidden frames is there only where a mask may be drawn."""

    optional = ("masked_spec_embed",)


# ---- wav2vec 2.0 ----


class Wav2Vec2PreTrainedModel(_OtherPreTrainedModel):
    """What models of wav2vec 2.0's family share."""

    base_model_prefix = "wav2vec2"
    config_class = Wav2Vec2Config


class Wav2Vec2Model(Wav2Vec2PreTrainedModel, UniSpeechSatModel):
    """wav2vec 2.0 (arXiv:2006.11477), XLS-R or MMS without a head: a waveform in, hidden states out."""


class Wav2Vec2ForCTC(Wav2Vec2PreTrainedModel, UniSpeechSatForCTC):
    """wav2vec 2.0 with a score for each letter in each frame; see `UniSpeechSatForCTC`."""

    backbone_class = Wav2Vec2Model


class Wav2Vec2ForSequenceClassification(Wav2Vec2PreTrainedModel, UniSpeechSatForSequenceClassification):
    """wav2vec 2.0 with a class for an utterance; see `UniSpeechSatForSequenceClassification`."""

    backbone_class = Wav2Vec2Model


class Wav2Vec2ForAudioFrameClassification(Wav2Vec2PreTrainedModel, UniSpeechSatForAudioFrameClassification):
    """wav2vec 2.0 with classes for every frame; see `UniSpeechSatForAudioFrameClassification`."""

    backbone_class = Wav2Vec2Model


class Wav2Vec2ForXVector(Wav2Vec2PreTrainedModel, UniSpeechSatForXVector):
    """wav2vec 2.0 with a vector for a voice; see `UniSpeechSatForXVector`."""

    backbone_class = Wav2Vec2Model


class Wav2Vec2ForPreTraining(Wav2Vec2PreTrainedModel, ContrastivePreTraining):
    """wav2vec 2.0 with its quantizer and its contrastive objective; see `unisat.contrastive`."""

    backbone_class = Wav2Vec2Model


# ---- HuBERT ----


class HubertEncoder(Encoder):
    """The transformer, in some models with a batch norm in front of the positional convolution."""

    def positions(self, config: UniSpeechSatConfig) -> nn.Module:
        """Make the positional convolution."""
        assert isinstance(config, HubertConfig)
        return NormedPositionalConvEmbedding(config) if config.conv_pos_batch_norm else super().positions(config)


class HubertPreTrainedModel(_OtherPreTrainedModel):
    """What models of HuBERT's family share."""

    base_model_prefix = "hubert"
    config_class = HubertConfig


class HubertModel(HubertPreTrainedModel, UniSpeechSatModel):
    """HuBERT (arXiv:2106.07447) without a head: a waveform in, hidden states out."""

    encoder_class = HubertEncoder
    output_class = BaseModelOutput


class HubertForCTC(HubertPreTrainedModel, UniSpeechSatForCTC):
    """HuBERT with a score for each letter in each frame; see `UniSpeechSatForCTC`."""

    backbone_class = HubertModel


class HubertForSequenceClassification(HubertPreTrainedModel, UniSpeechSatForSequenceClassification):
    """HuBERT with a class for an utterance; see `UniSpeechSatForSequenceClassification`."""

    backbone_class = HubertModel


# ---- WavLM ----


class WavLMPreTrainedModel(_OtherPreTrainedModel):
    """What models of WavLM's family share."""

    base_model_prefix = "wavlm"
    config_class = WavLMConfig


class WavLMModel(WavLMPreTrainedModel, UniSpeechSatModel):
    """WavLM (arXiv:2110.13900) without a head: a waveform in, hidden states out. `unisat.wavlm` has its attention."""

    encoder_class = WavLMEncoder


class WavLMForCTC(WavLMPreTrainedModel, UniSpeechSatForCTC):
    """WavLM with a score for each letter in each frame; see `UniSpeechSatForCTC`."""

    backbone_class = WavLMModel


class WavLMForSequenceClassification(WavLMPreTrainedModel, UniSpeechSatForSequenceClassification):
    """WavLM with a class for an utterance; see `UniSpeechSatForSequenceClassification`."""

    backbone_class = WavLMModel


class WavLMForAudioFrameClassification(WavLMPreTrainedModel, UniSpeechSatForAudioFrameClassification):
    """WavLM with classes for every frame; see `UniSpeechSatForAudioFrameClassification`."""

    backbone_class = WavLMModel


class WavLMForXVector(WavLMPreTrainedModel, UniSpeechSatForXVector):
    """WavLM with a vector for a voice; see `UniSpeechSatForXVector`."""

    backbone_class = WavLMModel


# ---- data2vec ----


class Data2VecAudioEncoder(Encoder):
    """The transformer with data2vec's stack of positional convolutions."""

    def positions(self, config: UniSpeechSatConfig) -> nn.Module:
        """Make the positional convolutions."""
        assert isinstance(config, Data2VecAudioConfig)
        return PositionalConvStack(config)


class Data2VecAudioPreTrainedModel(_OtherPreTrainedModel):
    """What models of data2vec's family share."""

    base_model_prefix = "data2vec_audio"
    config_class = Data2VecAudioConfig


class Data2VecAudioModel(Data2VecAudioPreTrainedModel, UniSpeechSatModel):
    """data2vec for speech (arXiv:2202.03555) without a head: a waveform in, hidden states out."""

    encoder_class = Data2VecAudioEncoder


class Data2VecAudioForCTC(Data2VecAudioPreTrainedModel, UniSpeechSatForCTC):
    """data2vec with a score for each letter in each frame; see `UniSpeechSatForCTC`."""

    backbone_class = Data2VecAudioModel


class Data2VecAudioForSequenceClassification(Data2VecAudioPreTrainedModel, UniSpeechSatForSequenceClassification):
    """data2vec with a class for an utterance; see `UniSpeechSatForSequenceClassification`."""

    backbone_class = Data2VecAudioModel


class Data2VecAudioForAudioFrameClassification(Data2VecAudioPreTrainedModel, UniSpeechSatForAudioFrameClassification):
    """data2vec with classes for every frame; see `UniSpeechSatForAudioFrameClassification`."""

    backbone_class = Data2VecAudioModel


class Data2VecAudioForXVector(Data2VecAudioPreTrainedModel, UniSpeechSatForXVector):
    """data2vec with a vector for a voice; see `UniSpeechSatForXVector`."""

    backbone_class = Data2VecAudioModel


# ---- UniSpeech ----


class UniSpeechPreTrainedModel(_OtherPreTrainedModel):
    """What models of UniSpeech's family share."""

    base_model_prefix = "unispeech"
    config_class = UniSpeechConfig


class UniSpeechModel(UniSpeechPreTrainedModel, UniSpeechSatModel):
    """UniSpeech (arXiv:2101.07597), not -SAT, without a head: a waveform in, hidden states out."""


class UniSpeechForCTC(UniSpeechPreTrainedModel, UniSpeechSatForCTC):
    """UniSpeech with a score for each letter in each frame; see `UniSpeechSatForCTC`."""

    backbone_class = UniSpeechModel


class UniSpeechForSequenceClassification(UniSpeechPreTrainedModel, UniSpeechSatForSequenceClassification):
    """UniSpeech with a class for an utterance; see `UniSpeechSatForSequenceClassification`."""

    backbone_class = UniSpeechModel


# ---- by config.json ----

_MODELS: dict[str, type[UniSpeechSatPreTrainedModel]] = {
    name: kind
    for name, kind in {**globals()}.items()
    if isinstance(kind, type) and issubclass(kind, UniSpeechSatPreTrainedModel)
}


class AutoModel:
    """Loads a checkpoint of any family: ``config.json`` says which."""

    head: ClassVar[str] = "Model"

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} makes nothing; use {type(self).__name__}.from_pretrained(name).")

    @classmethod
    def of(cls, config: UniSpeechSatConfig) -> type[UniSpeechSatPreTrainedModel]:
        """Give the class for a config.

        Raises
        ------
        ValueError
            If the family has no such head; the message names those that it has.
        """
        family = FAMILIES[config.model_type]
        kind = _MODELS.get(family + cls.head)
        if kind is None:
            have = [name for name in _MODELS if name.removeprefix(family)[:3] in ("Mod", "For")]
            raise ValueError(f"there is no {family}{cls.head}; of this family there are {', '.join(have)}.")
        return kind

    @classmethod
    def from_config(cls, config: UniSpeechSatConfig) -> UniSpeechSatPreTrainedModel:
        """Make a model with fresh weights."""
        return cls.of(config)(config)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, config: UniSpeechSatConfig | None = None, **options: Any
    ) -> UniSpeechSatPreTrainedModel:
        """Load a checkpoint, in evaluation mode; see `UniSpeechSatModel.from_pretrained` for the arguments.

        Raises
        ------
        ValueError
            If the family is none of those that unisat has, or has no such head; and where the class raises one.
        """
        place = {name: options.pop(name) for name in ("revision", "subfolder", *HUB) if name in options}
        folder = files.find_folder(name_or_path, **place)
        return cls.of(config or AutoConfig.from_pretrained(folder)).from_pretrained(folder, config=config, **options)


class AutoModelForCTC(AutoModel):
    """As `AutoModel`, with a score for each letter in each frame."""

    head = "ForCTC"


class AutoModelForPreTraining(AutoModel):
    """As `AutoModel`, with the parts of the family's pretraining objective."""

    head = "ForPreTraining"


class AutoModelForAudioClassification(AutoModel):
    """As `AutoModel`, with a class for an utterance."""

    head = "ForSequenceClassification"


class AutoModelForAudioFrameClassification(AutoModel):
    """As `AutoModel`, with classes for every frame."""

    head = "ForAudioFrameClassification"


class AutoModelForAudioXVector(AutoModel):
    """As `AutoModel`, with a vector for a voice."""

    head = "ForXVector"
