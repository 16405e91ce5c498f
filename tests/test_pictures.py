"""The pictures that a student turns knobs on say what the library does."""

import base64
import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image

from flgc_lib.course import pictures
from flgc_lib.grouping import duplicates, membership


@pytest.fixture
def shown(monkeypatch):
    """The figures that were shown."""
    figures = []
    mpl.use("Agg")
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    yield figures
    plt.close("all")


@pytest.mark.parametrize("score", ["logit", "softmax"])
@pytest.mark.parametrize(("G", "k"), [(2, 1), (4, 3), (16, 16)])
def test_copied_there_is_said_where_it_is_true_and_the_numbers_are_the_layers(G, k, score, shown):
    generator = torch.Generator().manual_seed(1)
    S, T = torch.randn(16, G, generator=generator), torch.randn(16, G, generator=generator)
    copied = duplicates(S if score == "logit" else S.softmax(dim=1), membership(S), k)
    channel = int(copied.any(dim=1).int().argmax())
    pictures.show_rule(S, T, channel, top_k=k, score=score)
    left, middle, right = shown[0].axes
    said = {round(text.get_position()[0]) for text in middle.texts if text.get_text() == "copied there"}
    assert said == set(copied[channel].nonzero()[:, 0].tolist())
    assert [label.get_text() for label in left.get_xticklabels()] == [str(g) for g in range(G)]
    frames = [patch for patch in right.patches if patch.get_linestyle() == ":"]
    by_copies = int((copied.float() @ membership(T).float().T).sum())
    assert len(frames) == by_copies
    assert f"{int(copied.sum())} copies" in shown[0].get_suptitle()
    assert f"+ {by_copies} connections" in shown[0].get_suptitle()


@pytest.mark.parametrize("channel", [-1, 16])
def test_a_channel_that_is_not_there_is_refused(channel):
    S, T = torch.randn(2, 16, 4)
    with pytest.raises(ValueError, match=f"channel={channel} must be from 0 to 15"):
        pictures.show_rule(S, T, channel)


@pytest.mark.parametrize("u1", [-1.0, 1.0])
def test_full_pushes_towards_the_better_group_and_masked_does_not_look(u1, shown):
    pictures.show_gradient(1.0, 0.9, 0.3, u1)
    widths = [bar.get_width() for bar in shown[0].axes[1].patches]
    full, masked = widths[:2], widths[2:]
    assert (full[1] > full[0]) == (u1 < 0.3)
    assert masked[1] > masked[0]


def test_a_film_has_a_picture_for_each_moment():
    S = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0))
    html = pictures.film([0, 10, 20], S, S[:, :4], torch.arange(4), torch.arange(6)).data
    picture = Image.open(io.BytesIO(base64.b64decode(html.partition("base64,")[2].rstrip('">'))))
    assert (picture.format, picture.n_frames) == ("GIF", 3)
