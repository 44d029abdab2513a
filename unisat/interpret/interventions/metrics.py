"""Metrics of interventions: they give one number for each utterance of a model's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unisat.precision import widen


@dataclass(frozen=True, eq=False)
class Metric:
    """A function that gives one number for each utterance of a model's output, and what it compares them with.

    Attributes
    ----------
    name : str
        The metric's name.
    function : callable
        Gives (batch,) from the output and, for each of ``values``, the rows of the batch's utterances.
    values : tuple of tensors (utterances, ...)
        What each utterance is compared with; a tensor without axes is the same for all.
    """

    name: str
    function: Callable[..., Tensor]
    values: tuple[Tensor, ...] = ()

    def __call__(self, output: Any, rows: Int[Tensor, " batch"] | None = None) -> Float[Tensor, " batch"]:
        """Give the metric of the utterances ``rows``; without ``rows`` all must be compared with the same value.

        Raises
        ------
        ValueError
            If each utterance is compared with a value of its own, and ``rows`` does not say which they are.
        """
        if rows is None and any(value.ndim for value in self.values):
            raise ValueError(
                f"{self.name} compares each utterance with a value of its own, and which they are is not known here; "
                "give one for all, such as a single x-vector (dim,)."
            )
        return self.function(output, *(value[rows] if value.ndim else value for value in self.values))


def speaker_cosine(reference: Tensor | np.ndarray) -> Metric:
    """Cosine of each x-vector and a reference voice, from -1 to 1, for models that give ``embeddings``.

    Parameters
    ----------
    reference : (utterances, dim) or (dim,)
        One x-vector for each utterance (of `unisat.sweep`), or one for all. Take the embedding of *another* utterance
        of the speaker: an utterance's own embedding would count its words and its noise as well.

    Examples
    --------
    >>> reference = model(other.input_values).embeddings[0]
    >>> us.attribute(model, batch, us.metrics.speaker_cosine(reference))
    """
    voices = torch.as_tensor(reference).detach()
    if voices.ndim not in (1, 2) or not torch.isfinite(voices).all():
        raise ValueError(
            "reference must be one x-vector (dim,), or one for each utterance (utterances, dim), of finite numbers, "
            f"got {tuple(voices.shape)}."
        )

    def cosine(output: Any, voice: Tensor = voices) -> Tensor:
        embeddings = getattr(output, "embeddings", None)
        if embeddings is None or embeddings.shape[-1] != voice.shape[-1]:
            got = f"{type(output).__name__} has none" if embeddings is None else f"got width {embeddings.shape[-1]}"
            raise ValueError(
                f"speaker_cosine reads embeddings of width {voice.shape[-1]}, {got}; use the x-vector model that the "
                "reference came from (UniSpeechSatForXVector, unisat.load('tiny', 'xvector')), or another metric."
            )
        return F.cosine_similarity(widen(embeddings), voice.to(widen(embeddings)), dim=-1)

    return Metric("cosine to the reference voice", cosine, (voices,) if voices.ndim > 1 else ())


def logit_difference(right: int | Sequence[int] | Tensor, wrong: int | Sequence[int] | Tensor) -> Metric:
    """Logit of one class less that of another, for models that give ``logits`` (batch, classes).

    Parameters
    ----------
    right, wrong : int or (utterances,)
        The class of the clean utterance and that of the corrupt one, for all pairs or for each.
    """

    def difference(output: Any, right: Tensor, wrong: Tensor) -> Tensor:
        logits = getattr(output, "logits", None)
        if logits is None or logits.ndim != 2:
            got = "none" if logits is None else f"{tuple(logits.shape)}"
            raise ValueError(f"logit_difference reads logits (batch, classes), {type(output).__name__} has {got}.")
        rows, device = torch.arange(len(logits), device=logits.device), logits.device
        return logits[rows, right.to(device)] - logits[rows, wrong.to(device)]

    return Metric("logit difference", difference, (torch.as_tensor(right), torch.as_tensor(wrong)))
