"""The order of an episode's rows, where a column says it: a number or a time for each, null for what is seen last.

step      2  0  null  1
order_of  1  3  0     2        the rows, from the first step to the last
"""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqdec.errors import DataError
from seqdec.spaces.space import quote

# Names of columns that say an order, too: where nobody names them, rows that are in another one are refused.
CLOCKS = ("step", "timestep", "time_step", "step_index", "step_id", "t", "time", "timestamp", "frame", "frame_index")
_HINT = "name the column that says the order of the steps, or None if they stand in it (Columns.step)"


def order_of(pieces: Sequence[pa.Array], column: str) -> np.ndarray | None:
    """Return the rows of an episode in the order of their steps; None where they stand in it.

    Args:
        pieces: what the column has in the rows, as the file has them.
        column: its name, for the sentence that says what is wrong.

    Raises:
        DataError: its values are neither numbers nor times, or two steps of another order have the same.
    """
    moments = _moments(pieces) if pieces else pa.nulls(0)
    if moments is None:
        kind = pieces[0].type
        shown = next((word for word in pieces[0].to_pylist() if word), "") if pa.types.is_string(kind) else kind
        raise DataError(
            f"column {quote(column)} holds {quote(shown)}: expected numbers or times; {_HINT}", option="step"
        )
    if moments.null_count > 1:
        raise DataError(f"column {quote(column)} is null at {moments.null_count} rows; {_HINT}", option="step")
    order = _sorted(moments)
    if (np.diff(order) == 1).all():
        return None
    values = moments.take(pa.array(order)).drop_null().to_numpy(zero_copy_only=False)
    twice = np.flatnonzero(values[1:] == values[:-1])
    if len(twice):
        same = f"column {quote(column)} is {quote(values[twice[0]])} at two of its rows"
        raise DataError(f"{same}, which are not in its order: give each step a number of its own", option="step")
    return order


def check_order(pieces: Sequence[pa.Array], column: str) -> None:
    """Refuse rows that are not in the order of a column that nobody named; one that says no order is passed over."""
    moments = _moments(pieces)
    if moments is not None and moments.null_count <= 1 and not (np.diff(_sorted(moments)) == 1).all():
        raise DataError(f"its rows are not in the order of column {quote(column)}: {_HINT}", option="step")


def _sorted(moments: pa.Array) -> np.ndarray:
    return pc.array_sort_indices(moments).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]  # stable, null last


def _moments(pieces: Sequence[pa.Array]) -> pa.Array | None:
    """Return the pieces as one array of numbers or times; None where they hold anything else."""
    try:
        table = pa.concat_tables([pa.table({"": piece}) for piece in pieces], promote_options="permissive")
    except pa.ArrowTypeError:  # texts in one piece, numbers in the next
        return None
    values = table.column(0).combine_chunks()
    kind = values.type
    if pa.types.is_floating(kind):
        return pa.array(values.to_numpy(zero_copy_only=False), from_pandas=True)  # NaN is null
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _times(values)
    is_order = pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_temporal(kind)
    return values if is_order or pa.types.is_null(kind) else None


def _times(words: pa.Array) -> pa.Array | None:
    """Return texts such as "2026-01-31 12:00:00", with or without a zone, as times."""
    words = pa.array([word or None for word in words.to_pylist()], pa.string())  # a CSV has no null among texts
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        with suppress(pa.ArrowInvalid):
            return words.cast(kind)
    return None
