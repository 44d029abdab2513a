"""Banks of x-vectors, and other utterances measured as those of a bank were."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unisat.corpus import Batch, Corpus
from unisat.frames import SAMPLE_RATE
from unisat.interpret.activations.sites import find_backbone
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.batching import PaddedBatch, ReadAhead, Speech, batches, default_seconds
from unisat.interpret.features.collect import collect
from unisat.modules import evaluating, fingerprint
from unisat.xvector import UniSpeechSatForXVector

SAME = ("max_seconds", "do_normalize", "sites", "frames", "baselines", "untrained_seeds", "seed")
"""Settings of a bank that `collect_like` uses again."""


def xvectors(
    model: UniSpeechSatForXVector,
    speech: Corpus | Batch,
    *,
    max_seconds: float | None = None,
    do_normalize: bool = True,
    batch_seconds: float | None = None,
) -> FeatureBank:
    """Give the x-vector of each utterance as a bank with the site ``"xvector"``: what `us.collect` is for layers.

    ``us.verify_trials(bank, "xvector")`` and ``us.embed(bank, "xvector")`` read it.

    Parameters
    ----------
    model : UniSpeechSatForXVector
        The model, which is in evaluation mode while this function runs.
    max_seconds : float, optional
        The model hears only the beginning of longer utterances.
    do_normalize : bool
        Whether each waveform is brought to zero mean and unit variance, as the model was trained.
    batch_seconds : float, optional
        Most seconds of audio in one batch, padding included; if None, as `us.collect` chooses.

    Raises
    ------
    ValueError
        If the model has no x-vectors, or an utterance is too short for one or cannot be read.
    """
    if not isinstance(model, UniSpeechSatForXVector):
        raise ValueError(
            f"a {type(model).__name__} gives no x-vectors; load a model that does, us.load('tiny', 'xvector') for one."
        )
    source = Speech(speech, max_seconds, do_normalize)
    table = source.table
    ids = table["id"].tolist()
    seconds = default_seconds(model.device) if batch_seconds is None else batch_seconds
    plan = list(enumerate(batches(table["seconds"].to_numpy(float), seconds)))
    ahead = ReadAhead(source, plan, model.device, least=round(model.shortest_seconds * SAMPLE_RATE))
    rows: list[int] = []
    found: list[np.ndarray] = []
    with evaluating(model):
        for batch in ahead:
            _check_whole(batch, ids, model.shortest_seconds)
            with ahead.working():
                found.append(_embeddings(model, batch).numpy())
            rows.extend(batch.rows)
    settings = {"model": fingerprint(model), "max_seconds": max_seconds, "do_normalize": do_normalize}
    bank = FeatureBank.from_arrays(table, {"xvector": np.concatenate(found)[np.argsort(rows)]}, settings)
    bank.timing = ahead.timing()
    return bank


@torch.inference_mode()
def _embeddings(model: UniSpeechSatForXVector, batch: PaddedBatch) -> Float[Tensor, "batch xvector"]:
    values, mask = (part.to(model.device, non_blocking=True) for part in (batch.input_values, batch.attention_mask))
    return model(values, attention_mask=mask).embeddings.float().cpu()


def _check_whole(batch: PaddedBatch, ids: list[str], least: float) -> None:
    """Refuse a batch in which an utterance is missing."""
    for row in batch.wanted:
        if row not in batch.waveforms:
            samples = batch.too_short.get(row)
            what = "cannot be read" if samples is None else f"has {samples / SAMPLE_RATE:.3f} s"
            raise ValueError(f"{ids[row]!r} {what}; an x-vector needs {least:g} s: leave that utterance out.")


def collect_like(model: nn.Module, bank: FeatureBank, speech: Batch) -> FeatureBank:
    """Measure other utterances as those of a bank were measured, with the model that it was made with.

    Raises
    ------
    ValueError
        If it is another model, or the bank does not say how it was made.
    """
    if "model" not in bank.settings:
        raise ValueError("the bank does not say how it was made; make it with us.collect or xvectors.")
    if bank.settings["model"] not in (fingerprint(model), fingerprint(find_backbone(model)[1])):
        raise ValueError("the bank was made with another model than this; pass the one that was given to us.collect.")
    same: dict[str, Any] = {name: value for name, value in bank.settings.items() if name in SAME}
    if "reduce" not in bank.settings:
        return xvectors(cast(UniSpeechSatForXVector, model), speech, **same)
    reduce = bank.settings["reduce"]
    if reduce not in ("mean", "mean+std"):
        raise ValueError(f"reduce={reduce!r} cannot be repeated here; collect with 'mean' or 'mean+std'.")
    same["untrained_seeds"] = max(1, same["untrained_seeds"])
    return collect(model, speech, reduce=reduce, progress=False, **same)


def collect_like_each(model: nn.Module, banks: Iterable[FeatureBank], speech: Batch) -> dict[FeatureBank, FeatureBank]:
    """Measure other utterances as those of several banks were measured, each bank once; see `collect_like`.

    X-vectors come first: they need the longest utterance, and say which one is too short.
    """
    in_turn = sorted(set(banks), key=lambda bank: "reduce" in bank.settings)
    return {bank: collect_like(model, bank, speech) for bank in in_turn}
