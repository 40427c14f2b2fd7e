"""Greedy tokens beside the source's: equal, nearly tied, others."""

import numpy as np

from edgec.core.decoder import LOGITS
from edgec.core.greedy import compare_greedy, follows


def generation(*rows):
    return {LOGITS: np.array([rows], np.float32)}


def test_tokens_are_equal_near_or_others():
    # The spread of each row is 1, so a tolerance of 0.01 lets two scores 0.02 apart change places.
    source = generation([1.0, -1.0, 1.0, -1.0], [1.01, -1.0, 1.0, -1.0], [1.0, -1.0, 0.5, -1.0])
    same = compare_greedy([source], [source], 0.01)
    assert (same.steps, same.equal, same.near_ties, same.others, same.first) == (3, 3, 0, 0, "")
    moved = generation([1.0, -1.0, 0.9, -1.0], [1.0, -1.0, 1.01, -1.0], [0.5, -1.0, 1.0, -1.0])
    found = compare_greedy([source, source], [source, moved], 0.01)
    assert (found.generations, found.steps, found.equal, found.near_ties, found.others) == (2, 6, 4, 1, 1)
    assert found.first == "in generation 2 at step 3: 2, not 0"
    assert str(found) == (
        "4 of 6 greedy tokens as the source's, 1 nearly tied in the source, "
        "1 others (first in generation 2 at step 3: 2, not 0)"
    )


def test_a_generation_by_itself_may_leave_at_a_near_tie_only():
    source = generation([1.0, -1.0, 0.5, -1.0], [1.01, -1.0, 1.0, -1.0], [1.0, -1.0, 0.5, -1.0])
    assert follows(source, [0, 0, 0], 0.01)
    # What follows a near tie is another text.
    assert follows(source, [0, 2, 3], 0.01)
    assert not follows(source, [2, 0, 0], 0.01)
    assert not follows(source, [0, 0], 0.01)
