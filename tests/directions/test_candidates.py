import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refusal_lightning.directions.selection.candidates import CandidateScores, from_rows, rows
from refusal_lightning.errors import UserError

TABLE = json.loads((Path(__file__).parent / "fixtures" / "score_table.json").read_text())


def test_rows_and_from_rows_are_inverse() -> None:
    scores = from_rows(TABLE)
    assert scores.shape == (2, 5)
    assert scores.bypass[-2, 3] == -3.0 and scores.induce[-1, 2] == 1.25
    back = rows(scores)
    assert math.isnan(back[-1].pop("refusal_score")) and back[:-1] == TABLE[:-1]
    assert list(back[0]) == ["position", "layer", "refusal_score", "steering_score", "kl_div_score"]


def test_row_order_is_free_and_nan_is_read() -> None:
    shuffled = json.loads(json.dumps(TABLE[::-1]).replace("null", "NaN"))
    a, b = from_rows(shuffled), from_rows(TABLE)
    np.testing.assert_array_equal(a.bypass, b.bypass)
    np.testing.assert_array_equal(a.kl, b.kl)


def test_rows_hold_plain_numbers() -> None:
    scores = CandidateScores(*np.zeros((3, 1, 2), dtype=np.float32))
    assert json.loads(json.dumps(rows(scores))) == rows(scores)


def changed(index: int, **values: Any) -> list[Any]:
    table = [dict(row) for row in TABLE]
    table[index] |= values
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "non-empty list"),
        ({"rows": TABLE}, "non-empty list"),
        ("text", "non-empty list"),
        ([*TABLE, 3], "row 10: expected an object"),
        ([{k: v for k, v in TABLE[0].items() if k != "kl_div_score"}], "row 0: lacks kl_div_score"),
        ([*TABLE, TABLE[0]], "position -2, layer 0 appears twice"),
        (TABLE[:-1], "position -1, layer 4 is missing"),
        ([TABLE[3], TABLE[8]], "not rectangular"),
        (changed(2, refusal_score="low"), "row 2: refusal_score must be a number or null, got 'low'"),
        (changed(2, steering_score=True), "row 2: steering_score must be a number"),
        (changed(2, position="-2"), "row 2: position must be a whole number"),
        (changed(2, layer=1.5), "row 2: layer must be a whole number"),
        (changed(2, position=2), "row 2: position must be negative"),
        (changed(2, layer=-1), "row 2: position must be negative and layer 0 or more"),
    ],
)
def test_malformed_tables_are_refused(table: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_rows(table)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        CandidateScores(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((3, 2)))
