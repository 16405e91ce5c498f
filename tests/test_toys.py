"""Planted problems: what a method finds, with no more connections than were planted."""

import pytest

from flgc_lib.course import toys


@pytest.mark.parametrize("seed", range(2))
def test_clustering_finds_the_planted_groups(seed):
    problem = toys.planted_groups(seed=seed)
    found = {}
    for method, soft_start in (("cluster", 0.5), ("flgc", 0.0)):
        layer = toys.layer_for(problem, method, seed=seed)
        history = toys.fit_planted(
            layer, problem, steps=600, learning_rate=0.03, soft_start=soft_start, regroup_every=50, every=600
        )
        found[method] = {name: values[-1] for name, values in history.items()}
    assert found["cluster"]["recovered"] == 1
    assert found["cluster"]["connections"] == problem.mask.sum()
    assert found["cluster"]["error"] < 1e-3
    assert found["flgc"]["recovered"] < 1


def test_a_soft_start_ends_with_closed_groups(monkeypatch):
    problem = toys.planted_groups(8, 8, 2, seed=0)
    layer = toys.layer_for(problem, "cluster", seed=0)
    seen = []
    monkeypatch.setattr(toys, "error", lambda layer, problem: seen.append(layer.softness))
    toys.fit_planted(layer, problem, steps=8, soft_start=0.5, every=1)
    assert seen == [0, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0]  # as the step before left it
    assert not layer.learns
