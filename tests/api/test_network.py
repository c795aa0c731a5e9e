"""``load_trial``: a trained network is shown image files."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Trained
from PIL import Image

import focalbench as fb
from focalbench.trained.inference import predict_image


@pytest.fixture(scope="module")
def network(trained: Trained) -> fb.TrainedNetwork:
    return fb.load_trial(trained.folder, device="cpu")


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8)).save(path)
    return path


def test_the_boxes_are_those_of_the_command(network: fb.TrainedNetwork, photograph: Path) -> None:
    (found,) = network.predict([photograph], score_thresh=0.0)
    expected = predict_image(network.trained, photograph, score_thresh=0.0)
    assert len(found) == len(expected.labels) > 0
    assert found.size == (90, 40)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert found.classes == tuple(network.classes[label] for label in expected.labels)
    assert network.classes == ("circle", "cross", "square", "triangle")
    assert not network.model.training


@pytest.mark.usefixtures("extra_pandas")
def test_one_path_and_many_and_none(network: fb.TrainedNetwork, photograph: Path) -> None:
    assert [found.path for found in network.predict(str(photograph))] == [photograph]
    assert [found.path for found in network.predict(path for path in (photograph, photograph))] == [photograph] * 2
    assert network.predict([]) == []
    (nothing,) = network.predict(photograph, score_thresh=1.0)
    assert (len(nothing), len(nothing.to_dataframe())) == (0, 0)
    (some,) = network.predict(photograph, score_thresh=np.float32(0))
    assert nothing.to_dataframe().dtypes.iloc[2:].tolist() == some.to_dataframe().dtypes.iloc[2:].tolist()


def test_what_was_found_can_be_put_into_a_set_and_a_list(network: fb.TrainedNetwork, photograph: Path) -> None:
    one, other = (network.predict(photograph, score_thresh=0.0)[0] for _ in range(2))
    assert one in [other, one]
    assert len({one, other}) == 2


@pytest.mark.parametrize("threshold", [2, -0.1, float("nan"), "0.5", None])
def test_a_threshold_is_a_number_from_0_to_1(network: fb.TrainedNetwork, photograph: Path, threshold: Any) -> None:
    with pytest.raises(fb.ConfigError, match=r"score_thresh should be a number in \[0, 1\], not "):
        network.predict(photograph, score_thresh=threshold)


def test_what_is_no_image_is_named(network: fb.TrainedNetwork, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("text.jpg", "missing.jpg", "."):
        with pytest.raises(fb.DataError, match=str(tmp_path / name)):
            network.predict([tmp_path / name])


def test_a_trial_that_is_not_finished_is_refused(tmp_path: Path, trained: Trained) -> None:
    (tmp_path / "config.yaml").write_bytes((trained.folder / "config.yaml").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(fb.DataError, match="not finished"):
            fb.load_trial(tmp_path)
    with pytest.raises(fb.CheckpointError, match="no intact checkpoint"):
        fb.load_trial(tmp_path, unfinished=True)
    with pytest.raises(fb.DataError, match="does not exist"):
        fb.load_trial(tmp_path / "nothing")
