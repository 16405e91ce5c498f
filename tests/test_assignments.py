"""Assignments through a training: what is recorded and measured, and what is read from it, by hand."""

import numpy as np
import pytest
import torch

from flgc_lib.experiment.assignments import Recorder, copied, layers, learned_layers, transitions

# Recording


def test_moves_empty_groups_copies_and_saturation_by_hand(tiny):
    """Three layers, G = 2: 12 channels and 4 + 4 + 16 = 24 filters in all."""
    layers = learned_layers(tiny().network())  # top_k=1: a channel is copied where it beats the group's best
    conv1, conv2, conv3 = layers.values()
    recorder = Recorder(layers, epochs=3)
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    with torch.no_grad():
        for layer in layers.values():
            for logits in (layer.input_logits, layer.filter_logits):
                half = len(logits) // 2
                logits[:half], logits[half:] = first, second
        recorder.record(0)

        conv1.input_logits[0] = second  # one channel moves
        conv2.input_logits[2:] = first  # two move, and their group is empty
        conv3.input_logits[3] = torch.tensor([2.0, 3.0])  # stays, and 2 beats the 1 of the first group: a copy
        conv3.input_logits[0] = torch.tensor([1.0, -7.0])
        conv3.filter_logits[0:6] = 9 * second  # six filters move; T's size is not asked for
        recorder.record(1)
        assert recorder.statistics() == {
            "copies": 1,
            "empty_groups": 1,
            "channels_moved": pytest.approx(3 / 12),
            "channels_moved_last": pytest.approx(3 / 12),
            "filters_moved": pytest.approx(6 / 24),
            "largest_logit": 7,
        }

        conv1.input_logits[0] = first  # moves back
        recorder.record(2)
        statistics = recorder.statistics()
    assert statistics["channels_moved"] == pytest.approx(2 / 12)
    assert statistics["channels_moved_last"] == pytest.approx(1 / 12)
    assert statistics["filters_moved"] == pytest.approx(6 / 24)


def test_logits_are_kept_of_each_stage_s_first_block_only(tiny):
    recorder = Recorder(learned_layers(tiny(depths=(2, 1)).network()), epochs=3)
    recorder.record(0)
    with_logits = {name.rpartition(".")[0] for name in recorder.arrays if name.endswith(".S")}
    assert with_logits == {f"layer{s}.0.conv{c}" for s in (1, 2) for c in (1, 2, 3)}
    assert "layer1.1.conv1.channel_group" in recorder.arrays


# Reading


def arrays(channel_group, filter_group, inputs, copies):
    """Of one layer with snapshots at start and end."""
    return {
        "snapshots": np.array([0, 2]),
        "layer1.0.conv1.channel_group": np.array(channel_group, dtype=np.uint8),
        "layer1.0.conv1.filter_group": np.array(filter_group, dtype=np.uint8),
        "layer1.0.conv1.copies": np.array(copies),
        "layer1.0.conv1.inputs": np.array(inputs, dtype=bool),
    }


EXAMPLE = arrays(  # 4 channels, 2 filters, 2 groups, 2 epochs
    channel_group=[[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0]],
    filter_group=[[0, 1], [0, 1], [0, 0]],
    inputs=[[[1, 0], [1, 0], [0, 1], [0, 1]], [[1, 1], [0, 1], [1, 1], [1, 0]]],
    copies=[0, 1, 2],
)


def test_layers_by_hand():
    (row,) = layers(EXAMPLE).to_dict("records")
    assert row == {
        "layer": "layer1.0.conv1", "place": 0, "channels": 4, "filters": 2, "copies": 2,
        "channels_moved": 50, "filters_moved": 50,
    }  # fmt: skip


def test_transitions_by_hand():
    flow = transitions(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 1, 0]), groups=4)
    assert flow.tolist() == [[1, 2, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_copied_lists_who_is_copied_where():
    # At the end the own groups are 0, 1, 1, 0: channel 0 is copied into 1, channel 2 into 0.
    assert copied(EXAMPLE).values.tolist() == [["layer1.0.conv1", 0, 0, 1], ["layer1.0.conv1", 2, 1, 0]]
    assert copied(EXAMPLE, snapshot=0).empty
