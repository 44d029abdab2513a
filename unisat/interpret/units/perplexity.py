"""How many entries of the quantizer are in use: over all frames, over a growing number of frames, and over training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unisat.clusters import entropy
from unisat.deprecation import renamed
from unisat.interpret.units.codebook import corrected_entropy, unseen_below, unseen_if_uniform
from unisat.quantizer import perplexity

DRAWS = 30
"""How many random choices of frames each point of a curve is the mean of."""

SOFT_DRAWS = 4  # a mean of probabilities varies less than a count


def gumbel_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw the noise that `unisat.quantizer.gumbel_choice` adds to logits of this shape, from a seed."""
    return -torch.empty(shape).exponential_(generator=torch.Generator().manual_seed(seed)).log()


def perplexity_plugin(count: Int[np.ndarray, " entries"]) -> float:
    """Perplexity of a histogram as it is, ``exp`` of its entropy, which is too low where frames are few."""
    return float(np.exp(entropy(count)))


def perplexity_corrected(count: Int[np.ndarray, " entries"]) -> float:
    """Perplexity of what a histogram was drawn from (`corrected_entropy`), at most the number of entries."""
    return min(float(len(count)), float(np.exp(corrected_entropy(count))))


def perplexities(logits: Float[Tensor, "frames groups entries"]) -> pd.DataFrame:
    """Give how many entries are in use, one row for each group.

    Parameters
    ----------
    logits : (frames, groups, entries)
        The logits of the frames that count.

    Returns
    -------
    DataFrame
        ``frames``; ``used`` entries, and ``used_if_even``, which a book in even use is expected to use; ``unseen``
        entries, and ``unseen_below``, the share of the frames that each of them has at most; and three perplexities:
        ``soft``, of the mean softmax; ``hard``, of the choices without noise as they are counted; ``corrected``, that
        of the choices without the bias of few frames.
    """
    frames, groups, entries = logits.shape
    soft = perplexity(logits.softmax(-1)).tolist()
    rows = []
    for group in range(groups):
        count = torch.bincount(logits[:, group].argmax(-1).cpu(), minlength=entries).numpy()
        used = int((count > 0).sum())
        rows.append(
            {
                "group": group,
                "frames": frames,
                "used": used,
                "used_if_even": entries - float(unseen_if_uniform(entries, frames)),
                "unseen": entries - used,
                "unseen_below": unseen_below(frames),
                "soft": soft[group],
                "hard": perplexity_plugin(count),
                "corrected": perplexity_corrected(count),
            }
        )
    return pd.DataFrame(rows)


def perplexity_over_frames(logits: Float[Tensor, "frames entries"], *, points: int = 25, seed: int = 0) -> pd.DataFrame:
    """Give the perplexity of one group over the number of frames, drawn at random from those at hand.

    Each value is ``exp`` of the mean entropy over draws of that many frames. It tells a book of which few frames show
    little from a book that is little used.

    Returns
    -------
    DataFrame
        ``frames``; ``soft``, ``hard`` and ``corrected`` as in `perplexities`; and ``even``, the ``hard`` perplexity
        that a book in even use is expected to show in as many frames.
    """
    total, entries = logits.shape
    sizes = np.unique(np.geomspace(min(10, total), total, points).round().astype(int))
    draw = np.random.default_rng(seed)
    probabilities = logits.cpu().double().softmax(-1).numpy()
    soft = np.zeros(len(sizes))
    for _ in range(SOFT_DRAWS):
        parts = np.add.reduceat(probabilities[draw.permutation(total)], np.append(0, sizes[:-1]), axis=0)
        soft += [entropy(mean) / SOFT_DRAWS for mean in parts.cumsum(0)]
    count = torch.bincount(logits.argmax(-1).cpu(), minlength=entries).numpy()
    seen = [draw.multivariate_hypergeometric(count, size, DRAWS, method="marginals") for size in sizes]
    even = [draw.multinomial(size, np.full(entries, 1 / entries), DRAWS) for size in sizes]
    return pd.DataFrame(
        {
            "frames": sizes,
            "soft": np.exp(soft),
            "hard": _mean_perplexity(seen),
            "corrected": [min(entries, float(np.exp(corrected_entropy(counts).mean()))) for counts in seen],
            "even": _mean_perplexity(even),
        }
    )


def perplexity_over_steps(history: pd.DataFrame | str | Path, group: int) -> pd.DataFrame:
    """Give the perplexity of one group over training, from the log of `unisat.training`.

    Parameters
    ----------
    history : DataFrame or path
        ``train.csv``, the folder that holds it, or a table with ``step`` and, for each group, such columns as
        ``prob_perplexity_0``, ``code_perplexity_0`` and perhaps ``corrected_perplexity_0``.
    group : int
        Number of the group, from 0.

    Returns
    -------
    DataFrame
        ``step``, ``soft``, ``hard``, and ``corrected`` where the log has it. (The log of `unisat.training` does not:
        it keeps no counts.)

    Raises
    ------
    ValueError
        If a column is missing, or nothing was logged.
    """
    table = read_history(history)
    names = {"step": "step", f"prob_perplexity_{group}": "soft", f"code_perplexity_{group}": "hard"}
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(
            f"the history has no {' and no '.join(missing)}, only {', '.join(map(str, table.columns))}; give the "
            "train.csv that unisat pretrain writes, of a model with as many groups."
        )
    names[f"corrected_perplexity_{group}"] = "corrected"
    return table[[name for name in names if name in table]].rename(columns=names)


def read_history(history: pd.DataFrame | str | Path) -> pd.DataFrame:
    """Read the log of a training run from a table, a file or a folder, and refuse one without rows."""
    if not isinstance(history, pd.DataFrame):
        path = Path(history)
        path = path / "train.csv" if path.is_dir() else path
        try:
            history = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} could not be read as a log of training ({error}); give train.csv or its folder."
            ) from error
    if history.empty:
        raise ValueError("the history has no rows; train some steps first.")
    return history


def step_of_temperature(history: pd.DataFrame, temperature: float) -> float | None:
    """Give the first step at which training was nearest to a temperature; None where the log does not say."""
    if "temperature" not in history:
        return None
    distance = (history["temperature"] - temperature).abs().to_numpy()
    return float(history["step"].iloc[int(distance.argmin())])


def _mean_perplexity(draws: list[np.ndarray]) -> np.ndarray:
    return np.array([np.exp(np.mean([entropy(count) for count in counts])) for counts in draws])


__getattr__ = renamed(
    __name__,
    {"plug_in": f"{__name__}.perplexity_plugin", "corrected": f"{__name__}.perplexity_corrected"},
)
