"""`Wav2Vec2Processor` joins the feature extractor for sound and the tokenizer for its transcript."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unisat import feature_extraction
from unisat.feature_extraction import BatchFeature, Wav2Vec2FeatureExtractor
from unisat.tokenization import Wav2Vec2CTCTokenizer


class Wav2Vec2Processor:
    """Turns sound into ``input_values``, transcripts into ``labels``, and ids into text."""

    def __init__(self, feature_extractor: Wav2Vec2FeatureExtractor, tokenizer: Wav2Vec2CTCTokenizer) -> None:
        self.feature_extractor, self.tokenizer = feature_extractor, tokenizer
        self._reads_text = False

    @property
    def model_input_names(self) -> tuple[str, ...]:
        """Names of what the model is given: those of the feature extractor."""
        return self.feature_extractor.model_input_names

    @contextmanager
    def as_target_processor(self) -> Iterator[None]:
        """Take what comes first as text, inside a ``with``; older scripts make labels so. Now pass ``text=``."""
        warnings.warn(
            "as_target_processor is now processor(text=...), and processor.pad(labels=...) for collating.",
            DeprecationWarning,
            stacklevel=3,
        )
        self._reads_text = True
        try:
            yield
        finally:
            self._reads_text = False

    def __call__(
        self,
        audio: Any = None,
        text: str | Sequence[str] | None = None,
        sampling_rate: int | None = None,
        *,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        pad_labels_with: int | None = None,
    ) -> BatchFeature:
        """Pass ``audio`` to the feature extractor, ``text`` to the tokenizer, or each to its own.

        With both, the ids become ``labels``. Both get the same lengths, as in the reference: ``max_length`` counts
        samples for the audio and letters for the text.

        Parameters
        ----------
        pad_labels_with
            Value of padded labels, such as -100 for a loss that ignores them. None is ``pad_token_id``, as in the
            reference.
        """
        if self._reads_text:
            audio, text = None, audio if text is None else text
        if audio is None and text is None:
            raise ValueError("neither audio nor text was passed; pass audio=..., text=... or both.")
        _check_label(pad_labels_with, text)
        lengths = {"padding": padding, "max_length": max_length, "pad_to_multiple_of": pad_to_multiple_of}
        rest: Any = {**lengths, "return_attention_mask": return_attention_mask, "return_tensors": return_tensors}
        if text is None:
            return self.feature_extractor(audio, sampling_rate=sampling_rate, truncation=bool(truncation), **rest)
        if audio is None and pad_labels_with is None:
            return self.tokenizer(text, truncation=truncation, **rest)
        encoded = self.tokenizer(text, truncation=truncation, **{**rest, "return_attention_mask": True})
        if audio is None:
            ids = _masked(encoded, pad_labels_with)
            mask = {} if return_attention_mask is False else {"attention_mask": encoded.attention_mask}
            return BatchFeature(input_ids=ids, **mask)
        batch = self.feature_extractor(audio, sampling_rate=sampling_rate, truncation=bool(truncation), **rest)
        texts = 1 if isinstance(text, str) else len(text)
        if len(batch.input_values) != texts:
            raise ValueError(
                f"audio holds {len(batch.input_values)} utterance(s) and text {texts}; pass one transcript for each."
            )
        return BatchFeature(batch, labels=_masked(encoded, pad_labels_with))

    def pad(
        self,
        input_features: Any = None,
        labels: Any = None,
        *,
        pad_labels_with: int | None = None,
        **lengths: Any,
    ) -> BatchFeature:
        """Collate examples that were prepared one by one.

        ``input_features`` are dicts with ``input_values``, and ``labels`` are dicts with ``input_ids``. ``lengths``
        are the arguments of `Wav2Vec2FeatureExtractor.pad`; they hold for both.
        """
        if self._reads_text and labels is None:
            return self.tokenizer.pad(input_features, **lengths)
        if input_features is None and labels is None:
            raise ValueError("neither input_features nor labels were passed; pass one or both.")
        _check_label(pad_labels_with, labels)
        if labels is None:
            return self.feature_extractor.pad(input_features, **lengths)
        padded = self.tokenizer.pad(labels, **{**lengths, "return_attention_mask": True})
        ids = _masked(padded, pad_labels_with)
        if input_features is not None:
            return BatchFeature(self.feature_extractor.pad(input_features, **lengths), labels=ids)
        return BatchFeature({**padded, "input_ids": ids})

    def decode(self, *ids: Any, **options: Any) -> Any:
        """Turn the ids of one utterance into text with `Wav2Vec2CTCTokenizer.decode`."""
        return self.tokenizer.decode(*ids, **options)

    def batch_decode(self, *ids: Any, **options: Any) -> Any:
        """Turn the ids of several utterances into text with `Wav2Vec2CTCTokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(*ids, **options)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: Any) -> Wav2Vec2Processor:
        """Read both from a local folder; each changed key goes to the one that has it.

        Raises
        ------
        FileNotFoundError
            If a file is missing. Without a ``vocab.json`` there is no tokenizer; use `AutoFeatureExtractor`.
        """
        heard = {name: value for name, value in changes.items() if name in feature_extraction.FIELDS}
        read = {name: value for name, value in changes.items() if name not in feature_extraction.FIELDS}
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder, **heard)
        try:
            return cls(extractor, Wav2Vec2CTCTokenizer.from_pretrained(folder, **read))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error} A checkpoint that was not trained to write text has none: use AutoFeatureExtractor."
            ) from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files of both into a folder, which is made if it is missing."""
        self.feature_extractor.save_pretrained(folder, processor_class=type(self).__name__)
        self.tokenizer.save_pretrained(folder, processor_class=type(self).__name__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n  {self.feature_extractor},\n  {self.tokenizer}\n)"


class AutoProcessor:
    """The reference's name for the processor that fits, here always a `Wav2Vec2Processor`."""

    from_pretrained = Wav2Vec2Processor.from_pretrained


class AutoFeatureExtractor:
    """The reference's name for the feature extractor that fits, here always a `Wav2Vec2FeatureExtractor`."""

    from_pretrained = Wav2Vec2FeatureExtractor.from_pretrained


class AutoTokenizer:
    """The reference's name for the tokenizer that fits, here always a `Wav2Vec2CTCTokenizer`."""

    from_pretrained = Wav2Vec2CTCTokenizer.from_pretrained


def _check_label(pad_labels_with: int | None, text: Any) -> None:
    """Refuse a value for padded labels that is a token's id, or that comes without labels."""
    if pad_labels_with is not None and (text is None or pad_labels_with >= 0):
        raise ValueError(
            f"pad_labels_with={pad_labels_with!r}; expected a negative number such as -100, which no token has as its "
            "id, and transcripts to pad."
        )


def _masked(encoded: BatchFeature, fill: int | None) -> Any:
    """Ids with ``fill`` where the mask is 0."""
    ids, mask = encoded.input_ids, encoded.attention_mask
    if fill is None:
        return ids
    if isinstance(ids, Tensor):
        return torch.where(mask != 0, ids, fill)
    if isinstance(ids, np.ndarray):
        return np.where(mask != 0, ids, fill)
    if ids and not isinstance(ids[0], list):
        return [index if kept else fill for index, kept in zip(ids, mask, strict=True)]
    rows = zip(ids, mask, strict=True)
    return [[index if kept else fill for index, kept in zip(*row, strict=True)] for row in rows]
