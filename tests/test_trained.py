"""Pictures of a run's groups: what they show is what the record holds."""

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from flgc_lib.experiment.training import Classifier
from flgc_lib.figures import trained

GROUPS = 3


@pytest.fixture
def net(tiny, images):
    """A network with copies whose first layer's first channel went from its group to the next one, and its arrays."""
    settings = tiny(method="flgc-dup", groups=GROUPS, epochs=1)
    module = Classifier(settings, images)
    name, layer = next(iter(module.layers.items()))
    group = int(layer.input_logits[0].argmax())
    layer.input_logits.data[0, (group + 1) % GROUPS] = 9.0
    module._recorder.record(1)
    arrays = {key: np.stack([value.numpy() for value in values]) for key, values in module.assignments.items()}
    return module, arrays, name, group


def test_the_mask_of_the_record_is_the_layers(net):
    module, arrays, *_ = net
    for name, layer in module.layers.items():
        assert np.array_equal(trained.mask_at(arrays, name, -1), layer.connection_mask().numpy())


def test_places_are_sorted_by_group_in_their_own_order():
    assert trained.order(np.array([1, 0, 2, 1, 0])).tolist() == [1, 4, 0, 3, 2]


def test_the_flow_counts_the_channel_that_moved(net):
    _, arrays, name, group = net
    canvas = Canvas()
    trained.draw_flow(arrays, name, canvas)
    channels, filters = canvas.axes
    total = arrays[f"{name}.channel_group"].shape[1]
    assert channels.get_title() == f"channels: {total - 1} of {total} stayed"
    assert filters.get_title().startswith("filters: ")
    shown = {(t.get_position(), t.get_text()) for t in channels.texts}
    assert (((group + 1) % GROUPS, group), "1") in shown


def test_sizes_are_those_of_start_and_end(net):
    _, arrays, name, group = net
    canvas = Canvas()
    trained.draw_sizes(arrays, name, canvas)
    start, end = ([bar.get_height() for bar in bars] for bars in canvas.axes[0].containers)
    change = np.zeros(GROUPS)
    change[[group, (group + 1) % GROUPS]] = -1, 1
    assert np.array_equal(np.array(end) - start, change)


def test_connections_of_a_copy_are_darker(net):
    _, arrays, *_ = net
    name = max((key for key in arrays if key.endswith(".copies")), key=lambda key: arrays[key][-1])[: -len(".copies")]
    assert arrays[f"{name}.copies"][-1] > 0, "the test needs a copy"
    canvas = Canvas()
    trained.draw_masks(arrays, name, canvas)
    picture = np.asarray(canvas.axes[-1].images[0].get_array())
    filters = arrays[f"{name}.filter_group"][-1]
    M = trained.mask_at(arrays, name, -1)
    assert ((picture < 1).any(axis=2)).sum() == M.sum()
    looks = {tuple(p) for p in picture.reshape(-1, 3).round(6).tolist()} - {(1.0, 1.0, 1.0)}
    assert len(looks) > len(set(filters.tolist())), "a look for the copies beside that of each group"


def test_moves_and_copies_of_all_layers(net):
    module, arrays, *_ = net
    canvas = Canvas()
    trained.draw_moved(arrays, canvas)
    picture = canvas.axes[0].images[0].get_array()
    first = next(iter(module.layers.values()))
    assert picture.shape == (1, len(module.layers))
    assert picture[0, 0] == pytest.approx(100 / first.in_channels)
    canvas = Canvas()
    trained.draw_copies(arrays, canvas)
    start, end = canvas.axes[0].lines
    for line, moment in ((start, 0), (end, -1)):
        assert list(line.get_ydata()) == [arrays[f"{name}.copies"][moment] for name in module.layers]


def test_logits_are_sorted_by_the_end_and_dots_stand_at_the_argmax(net):
    module, arrays, *_ = net
    name = list(module.layers)[-1]
    canvas = Canvas()
    trained.draw_logits(arrays, name, canvas)
    places = trained.order(arrays[f"{name}.channel_group"][-1])
    for axes, S in zip(canvas.axes, arrays[f"{name}.S"], strict=False):
        assert np.array_equal(axes.images[0].get_array(), S[places].T.astype(float))
        assert axes.lines[0].get_ydata().tolist() == S[places].astype(float).argmax(axis=1).tolist()
