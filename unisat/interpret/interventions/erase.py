"""Remove a label from a layer: find in a bank what an `Erase` takes out."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.labels import FrameLabels, labelled
from unisat.interpret.interventions.edits import Erase

Method = Literal["means", "leace"]


def erase(bank: FeatureBank, site: str, label: str | FrameLabels, *, method: Method = "leace") -> Erase:
    """Find the edit that removes what tells the classes of a label apart, from what a bank says about a site.

    Parameters
    ----------
    bank : FeatureBank
        Of utterances, segments or frames. Of ``reduce="mean+std"`` the means are taken.
    site : str
        A site of the bank.
    label : str, dict or sequence
        A column, or a label for each row of the site, as `unisat.subspaces` takes them. Rows without a label are left
        out.
    method : {"means", "leace"}
        ``"means"`` takes out the directions in which the class means differ, by an orthogonal projection. ``"leace"``
        is the least change after which no linear probe does better than one that knows nothing (Belrose et al. 2023,
        arXiv:2306.03819): x - W⁺ P W (x - mean), where W whitens the values and P projects on the directions in which
        the whitened class means differ. Both leave all class means equal. Among the edits that do so, LEACE moves the
        values least on average. A direction in which the values vary by no more than rounding is left as it is.

    Returns
    -------
    Erase
        For `unisat.intervene`, and with ``.apply(values)`` for arrays. What it promises holds for the bank's own rows:
        other rows keep what the bank did not show, and single frames keep more than the means over segments do.

    Raises
    ------
    ValueError
        If the label has one class, or its class means are equal already.

    Notes
    -----
    The rank is at most one less than there are classes. Many classes in few channels leave little of anything: compare
    with ``us.Placebo(edit)``, which loses as many random directions.

    Examples
    --------
    >>> edit = us.erase(bank, "hidden.4", "speaker")
    >>> with us.intervene(model, edit):
    ...     output = model(input_values, attention_mask)
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} must be one of {', '.join(get_args(Method))}.")
    title, values, codes, names, _ = labelled(bank, site, label)
    if len(names) < 2:
        raise ValueError(f"{title!r} has one class only, {names[0]!r}; there is nothing to erase.")
    mean = values.mean(0)
    centred = values - mean
    whiten = _whitening(centred, bank[site].dtype == np.float64) if method == "leace" else None
    means = _class_means(centred, codes)
    size = float(np.linalg.norm(values))
    basis = _span(means if whiten is None else means @ whiten, size if whiten is None else np.sqrt(len(values)))
    if not len(basis):
        raise ValueError(f"all classes of {title!r} have the same mean at {site}; there is nothing to erase.")
    return Erase(site, basis, mean, whiten=whiten)


def _class_means(
    centred: Float[np.ndarray, "rows dim"], codes: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "classes dim"]:
    """The mean of each class, times the root of its number of rows."""
    member = np.arange(codes.max() + 1)[:, None] == codes
    return (member @ centred) / np.sqrt(member.sum(1, keepdims=True))


def _whitening(centred: Float[np.ndarray, "rows dim"], double: bool) -> Float[np.ndarray, "dim dim"]:
    """The symmetric matrix that gives all directions in which there is variance the variance 1.

    A direction in which there is only rounding has none: the output of a layer norm has one. To whiten it would make
    noise as large as everything else.
    """
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    rounding = np.finfo(np.float64 if double else np.float32).eps * centred.shape[1]
    there = sizes > sizes[0] * rounding
    scaled = axes[there] / (sizes[there, None] / np.sqrt(len(centred)))
    return scaled.T @ axes[there]


def _span(rows: Float[np.ndarray, "classes dim"], size: float) -> Float[np.ndarray, "rank dim"]:
    """Orthonormal directions that span the rows, without what is rounding of values of this size."""
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    return directions[sizes > size * 1e-9]
