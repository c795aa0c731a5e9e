"""The figure of the loss says which share of it the hardest elements hold, and stays small."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from focalbench.figures import figure_pixels
from focalbench.figures.loss_distribution import draw_hardest_share, gamma_color, loss_distribution_figure
from focalbench.metrics.loss_histogram import NUM_BINS, cumulative_loss, figure_4_curves


def _counts(mean: float, number: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    found, _ = np.histogram(rng.normal(mean, 1.5, number), bins=NUM_BINS, range=(-20, 20))
    return found.astype(np.int64)


def test_lines_are_the_shares_of_the_hardest_elements() -> None:
    counts = _counts(5, 100_000)
    axes = Figure().add_subplot()
    draw_hardest_share(axes, figure_4_curves(counts), "background")
    assert [line.get_color() for line in axes.lines] == [gamma_color(gamma) for gamma in (0.0, 0.5, 1.0, 2.0)]
    for gamma, line in zip((0.0, 0.5, 1.0, 2.0), axes.lines, strict=True):
        power, held = (np.asarray(values)[::-1] for values in line.get_data())
        share = np.interp(-2, power, held)  # of the hardest hundredth
        assert share == pytest.approx(cumulative_loss(counts, gamma).of_hardest(0.01), abs=0.01)
    shares = [np.interp(-2, *(np.asarray(values)[::-1] for values in line.get_data())) for line in axes.lines]
    assert shares == sorted(shares)  # the larger gamma, the more the hardest hold


@pytest.mark.parametrize(("positives", "negatives"), [(700, 100_000), (0, 100_000), (0, 0), (1, 1)])
def test_the_picture_has_one_size_whatever_was_found(positives: int, negatives: int) -> None:
    curves = figure_4_curves(_counts(-1, positives)), figure_4_curves(_counts(5, negatives))
    figure = loss_distribution_figure(*curves, title="where the loss lies, step 500")
    assert figure_pixels(figure).shape == (640, 640, 3)
    assert figure.texts[0].get_text() == "where the loss lies, step 500"


def test_letters_are_large_enough_for_a_picture_of_400_pixels() -> None:
    curves = figure_4_curves(_counts(0, 10))
    figure = loss_distribution_figure(curves, curves, title="step 1")
    figure_pixels(figure)
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert len(texts) > 10
    assert min(text.get_fontsize() for text in texts) * figure.dpi / 72 >= 20
