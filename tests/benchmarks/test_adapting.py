"""What new normal clips are worth, where it is known: normal test clips are louder than those learnt."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import adapting, real_sets


@pytest.mark.filterwarnings("ignore")
def test_adapting_moves_scores_and_finds_no_more() -> None:
    rng = np.random.default_rng(0)

    def some(count: int, shift: float = 0.0) -> list[np.ndarray]:
        x = rng.normal(-40, 1, (count, 1, 128)) + rng.normal(0, 3, (count, 20, 128))
        x[:, :, :40] += shift
        return list(x.astype(np.float32))

    ids = ["00", "01"] * 40
    clips = real_sets.ClipSet(some(80), ids, some(80, 2.0) + some(40, 3.0), ids + ids[:40], np.repeat([0, 1], [80, 40]))
    found = adapting.measure("fast", clips, halves=1)
    assert list(found) == list(adapting.WAYS)
    nothing, calibrated, adapted, forgetful, again = found.values()
    assert nothing.auc == calibrated.auc == pytest.approx(forgetful.auc, abs=3)
    assert nothing.mean == calibrated.mean > adapted.mean > forgetful.mean
    assert abs(forgetful.mean) < 0.2
    assert nothing.false_alarms > 50
    assert max(calibrated.false_alarms, adapted.false_alarms, forgetful.false_alarms) < 25
    assert abs(again.mean) < adapted.mean, "the models know such clips then"
