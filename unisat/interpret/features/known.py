"""Which labels are known, in whatever dtype pandas or NumPy keeps them."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped
from pandas.api.types import infer_dtype


def plain(labels: Any) -> np.ndarray:
    """Give labels in any form as an array that keeps what they are.

    Whole numbers with gaps, which pandas keeps as floats or as nullable integers, are whole numbers and None. Nullable
    floats (``Float64``) are floats, a quantity.
    """
    if isinstance(labels, pd.Series):
        labels = whole_numbers(labels)
        if labels.dtype.kind in "iufb" and not isinstance(labels.dtype, np.dtype):
            gaps = labels.isna().any()
            return labels.to_numpy(float if labels.dtype.kind == "f" else object if gaps else labels.dtype.numpy_dtype)
        return labels.to_numpy() if isinstance(labels.dtype, np.dtype) else labels.to_numpy(object)
    given = np.asarray(labels)
    if given.dtype.kind == "U" and not isinstance(labels, np.ndarray):  # None and numbers among strings became strings
        given = np.asarray(labels, dtype=object)
    return given


def whole_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Give a table whose columns of whole numbers are whole numbers, also where gaps have made floats of them."""
    table = table.copy(deep=False)
    for name in [name for name, column in table.items() if whole_numbers(column) is not column]:
        table[name] = whole_numbers(table[name])
    return table


def whole_numbers(column: pd.Series) -> pd.Series:
    """Give a column of floats that are whole numbers with gaps as ``Int64``, and any other as it is."""
    there = column.dropna()
    if str(column.dtype) not in ("float64", "float32", "object", "category") or len(there) in (0, len(column)):
        return column
    if infer_dtype(there.astype(object)) != "floating":
        return column
    values = there.astype(float)
    return column.astype(float).astype("Int64") if ((values % 1 == 0) & (values.abs() < 2**53)).all() else column


def known(labels: Shaped[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Tell the rows that have a label from those with None, NaN, an empty string or a negative whole number.

    An array of floats is taken for a quantity, whose negative values are known.
    """
    if labels.dtype.kind in "iu":
        return labels >= 0
    there = ~pd.isna(labels)
    if labels.dtype.kind in "OU":
        there[there] = [label != "" and not (isinstance(label, Real) and label < 0) for label in labels[there]]
    return there
