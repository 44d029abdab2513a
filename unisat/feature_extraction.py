"""`Wav2Vec2FeatureExtractor` makes a batch of waveforms, normalised and padded as ``preprocessor_config.json`` says.

The tokenizer uses `BatchFeature` and the padding too.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unisat import audio
from unisat.config import nearest, read_object
from unisat.frames import SAMPLE_RATE

FEATURE_EXTRACTOR_NAME = "preprocessor_config.json"
PROCESSOR_NAME = "processor_config.json"  # transformers 5 keeps the extractor's keys inside this file
FIELDS = ("feature_size", "sampling_rate", "padding_value", "padding_side", "return_attention_mask", "do_normalize")
PADDINGS = (False, True, "longest", "max_length", "do_not_pad")
TENSORS = (None, "np", "pt")
MOST_CHANNELS = 8  # so short no utterance is: an array of such rows holds samples of several channels


class BatchFeature(dict[str, Any]):
    """A dict whose entries are attributes too: ``batch["input_values"]`` is ``batch.input_values``."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"{name!r} is not in this batch; it holds {', '.join(self)}.")
        return self[name]

    def to(
        self, device: str | int | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> BatchFeature:
        """Return a copy whose tensors are on another device, and whose floating point tensors have another dtype."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        moved = {}
        for name, value in self.items():
            if isinstance(value, Tensor):
                value = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            moved[name] = value
        return BatchFeature(moved)


class Wav2Vec2FeatureExtractor:
    """Turns raw waveforms into the model's input, with the reference's name, arguments and file.

    Each utterance is normalised over its own samples before padding, with or without a mask, so the result does not
    depend on the other utterances of the batch.

    Parameters
    ----------
    sampling_rate
        Samples a second of the waveforms. The feature extractor never resamples.
    padding_value
        Value behind the samples of a shorter utterance.
    padding_side
        "right", the only side on which the models read padding.
    return_attention_mask
        Whether a batch has an ``attention_mask``, 1 on samples and 0 on padding. A call can change it.
    do_normalize
        Whether utterances get zero mean and unit variance, as in `unisat.audio.normalize`.
    **extra
        Other keys, which are kept for the file. Typed ones give a warning; those from a file do not.
    """

    model_input_names = ("input_values", "attention_mask")
    _processor_class = None  # pipelines of the reference look for a processor with a language model

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = SAMPLE_RATE,
        padding_value: float | int = 0.0,
        padding_side: str = "right",
        return_attention_mask: bool = False,
        do_normalize: bool = True,
        **extra: Any,
    ) -> None:
        warn_unknown(type(self).__name__, extra, (*FIELDS, "processor_class", "feature_extractor_type"))
        if feature_size != 1:
            raise ValueError(f"feature_size={feature_size!r}; expected 1, because a waveform has 1 number a sample.")
        if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, int) or sampling_rate < 1:
            raise ValueError(f"sampling_rate={sampling_rate!r}; expected samples a second, such as {SAMPLE_RATE}.")
        if not isinstance(padding_value, int | float) or not math.isfinite(padding_value):
            raise ValueError(f"padding_value={padding_value!r}; expected a finite number, such as 0.0.")
        check_right(padding_side)
        self.feature_size, self.sampling_rate, self.padding_value = feature_size, sampling_rate, padding_value
        self.padding_side, self.return_attention_mask = padding_side, return_attention_mask
        self.do_normalize, self.extra = do_normalize, extra
        self._warned = False

    def __call__(
        self,
        raw_speech: Any,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """Make a batch with ``input_values`` (float32) and, on request, ``attention_mask`` (int32).

        Parameters
        ----------
        raw_speech
            One waveform ``(samples,)`` as an array, a tensor or a list of floats, or several: a list of them or
            an array ``(batch, samples)``. Full scale is 1; int16, int32 and uint8 are scaled to it.
        padding
            True or "longest" pads to the longest utterance, "max_length" to ``max_length``, False not at all.
        max_length
            In samples. Longer utterances are cut to it only with ``truncation=True``.
        pad_to_multiple_of
            The length after padding or cutting is rounded up to a multiple of this.
        return_tensors
            "pt", "np", or None for a list of arrays.
        sampling_rate
            Samples a second of ``raw_speech``. The first call without it gives a warning.

        Raises
        ------
        ValueError
            If the rate is wrong, a waveform is empty, not finite or not one-dimensional, or the lengths differ
            where tensors are asked for.
        """
        self._check_rate(sampling_rate)
        check_padding(padding, max_length, truncation, pad_to_multiple_of, return_tensors)
        limit = round_up(max_length, pad_to_multiple_of) if truncation else None
        waveforms = [waveform[:limit] for waveform in self._waveforms(raw_speech)]
        if self.do_normalize:
            waveforms = [audio.normalize(waveform) for waveform in waveforms]
        columns = {"input_values": [waveform.numpy() for waveform in waveforms]}
        mask = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        target = target_length(columns["input_values"], padding, max_length, pad_to_multiple_of)
        return as_batch(padded(columns, "input_values", self.padding_value, target, mask), return_tensors)

    def pad(
        self,
        processed_features: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Collate examples ``{"input_values": ...}`` that were prepared one by one, without normalising them again.

        The arguments are those of a call. Without ``return_tensors`` tensors stay tensors, and everything else
        becomes an array. Other keys of the examples are stacked as they are.
        """
        check_padding(padding, max_length, truncation, pad_to_multiple_of, return_tensors)
        columns = as_columns(processed_features, "input_values")
        kind = "pt" if isinstance(columns["input_values"][0], Tensor) else "np"
        limit = round_up(max_length, pad_to_multiple_of) if truncation else None
        for name in columns.keys() & self.model_input_names:
            columns[name] = [values[:limit] for values in columns[name]]
        columns["input_values"] = [waveform.numpy() for waveform in self._waveforms(columns["input_values"])]
        mask = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        target = target_length(columns["input_values"], padding, max_length, pad_to_multiple_of)
        columns = padded(columns, "input_values", self.padding_value, target, mask)
        ragged = len({len(values) for values in columns["input_values"]}) > 1
        return as_batch(columns, None if ragged and return_tensors is None else return_tensors or kind)

    def _check_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate is None and not self._warned:
            self._warned = True
            warnings.warn(
                f"no sampling_rate was passed; the audio is read as {self.sampling_rate} samples a second. At another "
                f"rate the model hears another voice; pass sampling_rate={self.sampling_rate} if this is its rate.",
                UserWarning,
                stacklevel=3,
            )
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate is {sampling_rate}, the model listens at {self.sampling_rate}; use "
                f"unisat.audio.resample(audio, {sampling_rate}, {self.sampling_rate}) first."
            )

    def _waveforms(self, raw_speech: Any) -> list[Tensor]:
        """Fresh, checked float32 waveforms ``(samples,)`` of one utterance or several."""
        several = getattr(raw_speech, "ndim", 1) == 2
        if several and raw_speech.shape[1] <= MOST_CHANNELS < raw_speech.shape[0]:
            raise ValueError(
                f"audio must be mono; the shape {tuple(raw_speech.shape)} is that of (samples, channels), as soundfile "
                "reads it. Take the mean of the channels: audio.mean(1)."
            )
        if isinstance(raw_speech, list | tuple):
            if not raw_speech:
                raise ValueError("the batch is empty; pass at least one utterance.")
            several = _is_sequence(raw_speech[0])
        waveforms = []
        for index, one in enumerate(raw_speech if several else [raw_speech]):
            try:
                nested = isinstance(one, list | tuple) and len(one) > 0 and _is_sequence(one[0])
                if nested or getattr(one, "ndim", 1) != 1:
                    raise ValueError(
                        f"audio must be mono, (samples,) or (batch, samples); got shape {np.shape(one)}. Replace "
                        "channels by their mean, and drop axes of size 1 with squeeze()."
                    )
                waveforms.append(audio.as_waveform(one, SAMPLE_RATE))
            except ValueError as error:
                raise ValueError(f"utterance {index}: {error}" if several else str(error)) from error
        if not waveforms:
            raise ValueError(f"the batch of shape {tuple(raw_speech.shape)} is empty; pass at least one utterance.")
        return waveforms

    # reading and writing

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Wav2Vec2FeatureExtractor:
        """Make a feature extractor from the reference's keys; keep unknown ones in ``extra`` without a warning."""
        kind = values.get("feature_extractor_type", cls.__name__)
        if kind != cls.__name__:
            raise ValueError(
                f"{FEATURE_EXTRACTOR_NAME} says feature_extractor_type={kind!r}: it is for a model of another family; "
                f"unisat reads {cls.__name__}."
            )
        made = cls(**{name: value for name, value in values.items() if name in FIELDS})
        made.extra = {name: value for name, value in values.items() if name not in FIELDS}
        return made

    def to_dict(self) -> dict[str, Any]:
        """All keys, as ``preprocessor_config.json`` holds them."""
        return {
            **self.extra,
            "feature_extractor_type": type(self).__name__,
            **{f: getattr(self, f) for f in FIELDS},
        }

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: Any) -> Wav2Vec2FeatureExtractor:
        """Read ``preprocessor_config.json`` from a local folder (or the file itself), with some keys changed.

        Of a folder that transformers 5 has written, it reads ``processor_config.json``.
        """
        warn_unknown(cls.__name__, changes, FIELDS)
        path = Path(folder)
        nested = None if path.is_file() else read_json(path, PROCESSOR_NAME, needed=False).get("feature_extractor")
        where, name = (path.parent, path.name) if path.is_file() else (path, FEATURE_EXTRACTOR_NAME)
        return cls.from_dict({**(nested or read_json(where, name)), **changes})

    def save_pretrained(self, folder: str | Path, *, processor_class: str | None = None) -> None:
        """Write ``preprocessor_config.json`` into a folder, which is made if it is missing."""
        write_json(self.to_dict(), folder, FEATURE_EXTRACTOR_NAME, processor_class)
        if "feature_extractor" in (older := read_json(folder, PROCESSOR_NAME, needed=False)):
            write_json({**older, "feature_extractor": self.to_dict()}, folder, PROCESSOR_NAME)

    def to_json_string(self) -> str:
        """The text of ``preprocessor_config.json``."""
        return json_text(self.to_dict())

    def to_json_file(self, path: str | Path) -> None:
        """Write what `to_json_string` gives into a file."""
        Path(path).write_text(self.to_json_string(), encoding="utf-8")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in FIELDS)})"


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray | Tensor) and getattr(value, "ndim", 1) > 0


# the tokenizer uses these functions too


def warn_unknown(owner: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Warn of typed names that have no meaning here."""
    for name in set(names) - set(known):
        warnings.warn(
            f"{name!r} is not an argument of {owner}{nearest(name, known)}; it is kept and has no effect.",
            UserWarning,
            stacklevel=3,
        )


def check_right(padding_side: str) -> None:
    """Refuse padding in front of the samples."""
    if padding_side != "right":
        raise ValueError(
            f"padding_side={padding_side!r}; the models read padding behind the samples only. Use padding_side='right'."
        )


def check_padding(
    padding: bool | str,
    max_length: int | None,
    truncation: bool,
    pad_to_multiple_of: int | None,
    return_tensors: str | None,
) -> None:
    """Refuse arguments that do not fit together or are out of range."""
    if padding not in PADDINGS:
        raise ValueError(f"padding={padding!r}; expected one of {', '.join(map(repr, PADDINGS))}.")
    if return_tensors not in TENSORS:
        raise ValueError(f"return_tensors={return_tensors!r}; expected 'pt', 'np' or None.")
    for name, value in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}={value!r}; expected a positive whole number, or None.")
    if max_length is None and (truncation or padding == "max_length"):
        asked = "truncation=True" if truncation else "padding='max_length'"
        raise ValueError(f"{asked} without a max_length; pass max_length=..., or padding=True for the longest.")


def round_up(length: int | None, multiple: int | None) -> int | None:
    """Round a length up to a multiple; without a multiple it stays as it is."""
    return length if length is None or multiple is None else -(-length // multiple) * multiple


def target_length(sequences: Sequence[Any], padding: bool | str, max_length: int | None, multiple: int | None) -> int:
    """Length that shorter sequences are padded to; 0 for no padding."""
    if padding in (False, "do_not_pad") or not len(sequences):
        return 0
    length = max_length if padding == "max_length" else max(len(sequence) for sequence in sequences)
    return round_up(length, multiple) or 0


def as_columns(examples: Any, name: str) -> dict[str, list[Any]]:
    """Turn a list of dicts, or a dict of lists, into a dict of lists of equal length."""
    if isinstance(examples, list | tuple) and examples and all(isinstance(one, Mapping) for one in examples):
        if differing := [index for index, one in enumerate(examples) if one.keys() != examples[0].keys()]:
            raise ValueError(f"examples 0 and {differing[0]} have different keys; give all of them the same keys.")
        examples = {key: [one[key] for one in examples] for key in examples[0]}
    if not isinstance(examples, Mapping) or name not in examples or not len(examples[name]):
        got = f"keys {', '.join(map(str, examples))}" if isinstance(examples, Mapping) else f"{examples!r:.60}"
        raise ValueError(f"expected a list of dicts with {name!r}, or a dict of lists, which is not empty; got {got}.")
    if not _is_sequence(examples[name][0]):
        raise ValueError(f"{name!r} is that of one example, and pad puts several together; pass a list, [example].")
    columns = {key: list(values) for key, values in examples.items()}
    if len(lengths := {key: len(values) for key, values in columns.items()}) and len(set(lengths.values())) > 1:
        raise ValueError(f"the columns have different numbers of examples: {lengths}; give each example all of them.")
    return columns


def padded(
    columns: Mapping[str, list[Any]], name: str, fill: float | int, target: int, mask: bool
) -> dict[str, list[Any]]:
    """Pad the sequences of one column with ``fill`` and their masks with 0; make missing masks if ``mask``."""
    masks = columns.get("attention_mask", [np.ones(len(v), np.int32) for v in columns[name]] if mask else None)

    def behind(sequence: Any, value: float | int) -> np.ndarray:
        return np.pad(sequence, (0, max(target - len(sequence), 0)), constant_values=value)

    done = {**columns, name: [behind(sequence, fill) for sequence in columns[name]]}
    return done if masks is None else {**done, "attention_mask": [behind(one, 0) for one in masks]}


def as_batch(columns: Mapping[str, list[Any]], return_tensors: str | None) -> BatchFeature:
    """Stack each column into a tensor or an array; without ``return_tensors`` leave lists."""
    if return_tensors is None:
        return BatchFeature(columns)
    stacked: dict[str, Any] = {}
    for name, column in columns.items():
        arrays = [np.asarray(value) for value in column]
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(
                f"{name} are of different lengths ({', '.join(str(len(array)) for array in arrays[:8])}), and a tensor "
                "needs equal ones; pass padding=True, or return_tensors=None for a list."
            )
        stacked[name] = torch.from_numpy(np.stack(arrays)) if return_tensors == "pt" else np.stack(arrays)
    return BatchFeature(stacked)


def read_json(folder: str | Path, name: str, *, needed: bool = True) -> dict[str, Any]:
    """Read a JSON object from a local folder; ``{}`` if the file is missing and not needed."""
    path = Path(folder).expanduser() / name
    if not path.is_file():
        if not needed:
            return {}
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"there is no folder {str(folder)!r}; {name} is read from local folders: put it into one, beside the "
                "checkpoint's config.json, and pass the path of that folder."
            )
        raise FileNotFoundError(f"there is no {name} in {folder}; copy it from where the checkpoint came from.")
    return read_object(path)


def write_json(values: Mapping[str, Any], folder: str | Path, name: str, processor_class: str | None = None) -> None:
    """Write a JSON object as the reference does, into a folder that is made if it is missing."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    values = {**values, "processor_class": processor_class} if processor_class else values
    (Path(folder) / name).write_text(json_text(values), encoding="utf-8")


def json_text(values: Mapping[str, Any]) -> str:
    """A JSON object as the reference writes it."""
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
