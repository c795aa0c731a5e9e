"""A sweep beside kept results: the same, alike, changed, or nothing that can be said."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from focalbench.analysis.agreement import Agreement, Word, agreement_sentence, hold_against
from focalbench.analysis.comparison import compare_trials
from focalbench.errors import DataError
from focalbench.records.reader import read_trials

Table = Callable[..., Path]
CE = [0.50, 0.51, 0.52, 0.50, 0.53, 0.49]
FOCAL = [0.60, 0.63, 0.61, 0.60, 0.60, 0.62]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Writes a table of results: arm -> values by seed, and the hash of each trial as a function of arm and seed."""

    def write(name: str, arms: dict[str, Sequence[float]], hashed: Callable[[str, int], str] = "{}{}".format) -> Path:
        lines = ["trial,arm,seed,config_hash,state,val/mAP"]
        for arm, values in arms.items():
            lines += [f"{arm}-s{seed},{arm},{seed},{hashed(arm, seed)},done,{v}" for seed, v in enumerate(values)]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def agreement(here: Path, kept: Path) -> Agreement:
    own, other = (read_trials([path], tables=True) for path in (here, kept))
    return hold_against(compare_trials(own), other)


def words(found: Agreement) -> dict[str, str]:
    return {entry.arm: entry.word for entry in found.arms}


def test_the_same_values_are_identical(table: Table) -> None:
    found = agreement(*(table(name, {"ce": CE, "focal": FOCAL}) for name in ("here", "kept")))
    assert words(found) == {"ce": "identical", "focal": "identical"}
    assert found.word == "identical"
    assert [entry.num_identical for entry in found.arms] == [6, 6]


def moved(values: Sequence[float], by: float, sd: float = 0.0, seed: int = 0) -> list[float]:
    """The values, each changed by about ``by``."""
    noise = np.random.default_rng(seed).normal(0, sd, len(values)) if sd else np.zeros(len(values))
    return list(np.asarray(values) + by + noise)


@pytest.mark.parametrize(
    ("by", "sd", "word"),
    [
        (0.0, 0.0005, "agrees"),
        (0.002, 0.0005, "agrees"),  # a change is there, and shown to be smaller than the margin
        (0.05, 0.001, "disagrees"),
        (-0.05, 0.001, "disagrees"),
        (0.0, 0.03, "undecided"),
    ],
)
def test_what_is_said_of_a_change(by: float, sd: float, word: str, table: Table) -> None:
    kept = table("kept", {"ce": CE, "focal": FOCAL, "other": FOCAL})
    found = agreement(table("here", {"ce": CE, "focal": moved(FOCAL, by, sd), "other": FOCAL}), kept)
    assert words(found) == {"ce": "identical", "focal": word, "other": "identical"}
    assert found.word == word


def test_the_change_is_that_of_the_difference_and_paired_by_seed(table: Table) -> None:
    """One arm and a baseline that both change: paired t tests of either, against scipy's."""
    here = {"ce": moved(CE, 0.01, 0.02, seed=1), "focal": moved(FOCAL, 0, 0.02, seed=2)}
    base, focal = agreement(table("here", here), table("kept", {"ce": CE, "focal": FOCAL})).arms
    of_base = np.subtract(here["ce"], CE)
    for entry, changes in ((base, of_base), (focal, np.subtract(here["focal"], FOCAL) - of_base)):
        expected = stats.ttest_1samp(changes, 0)
        assert entry.change is not None
        assert entry.change.difference == pytest.approx(changes.mean())
        assert entry.change.p == pytest.approx(expected.pvalue)
        assert entry.change.ci == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_a_level_that_moves_in_every_arm_is_the_baselines_alone(table: Table) -> None:
    here = {"ce": moved(CE, 0.03), "focal": moved(FOCAL, 0.03)}
    found = agreement(table("here", here), table("kept", {"ce": CE, "focal": FOCAL}))
    assert words(found) == {"ce": "disagrees", "focal": "agrees"}


def test_an_arm_whose_baseline_moved_is_not_identical(table: Table) -> None:
    found = agreement(table("here", {"ce": CE, "focal": FOCAL}), table("kept", {"ce": moved(CE, 0.03), "focal": FOCAL}))
    assert words(found) == {"ce": "disagrees", "focal": "disagrees"}
    assert found.arms[1].num_identical == 6
    assert found.arms[1].change is not None
    assert found.arms[1].change.difference == pytest.approx(0.03)


def test_the_margin_is_that_of_the_sweep_here(table: Table) -> None:
    here, kept = {"ce": CE, "focal": moved(FOCAL, 0.02, 0.001)}, {"ce": CE, "focal": FOCAL}
    compared = replace(compare_trials(read_trials([table("here", here)], tables=True)), margin=0.05)
    found = hold_against(compared, read_trials([table("kept", kept)], tables=True))
    assert words(found)["focal"] == "agrees"


def test_few_seeds_say_nothing(table: Table) -> None:
    found = agreement(table("here", {"ce": [0.4, 0.5], "focal": [0.6, 0.7]}), table("kept", {"ce": CE, "focal": FOCAL}))
    assert words(found) == {"ce": "too few seeds", "focal": "too few seeds"}


def test_another_configuration_is_not_compared(table: Table) -> None:
    for other, expected in (("focal", ["identical", "not comparable"]), ("ce", ["not comparable", "not comparable"])):
        kept = table("kept", {"ce": CE, "focal": FOCAL}, lambda arm, seed, other=other: f"{arm}{'2' * (arm == other)}")
        found = agreement(table("here", {"ce": CE, "focal": FOCAL}, lambda arm, seed: arm), kept)
        assert list(words(found).values()) == expected
        assert found.arms[1].change is None


def test_other_data_are_not_compared(table: Table) -> None:
    paths = [table(name, {"ce": CE, "focal": FOCAL}) for name in ("here", "kept")]
    for path, fingerprint in zip(paths, ("aa bb", "aa cc"), strict=True):
        head, *rows = path.read_text().splitlines()
        path.write_text("\n".join([f"{head},data_fingerprint", *(f"{row},{fingerprint}" for row in rows)]))
    assert agreement(*paths).word == "not comparable"


def test_arms_of_one_side_are_named(table: Table) -> None:
    found = agreement(table("here", {"ce": CE, "mine": FOCAL}), table("kept", {"ce": CE, "focal": FOCAL}))
    assert (found.only_here, found.only_kept) == (("mine",), ("focal",))


def test_without_a_common_baseline_there_is_nothing_to_hold(table: Table) -> None:
    with pytest.raises(DataError, match="no arm 'ce' to start from, only a, b"):
        agreement(table("here", {"ce": CE, "focal": FOCAL}), table("kept", {"a": CE, "b": FOCAL}))


def test_each_word_has_its_sentence(table: Table) -> None:
    kept = {"ce": CE, "focal": FOCAL}
    same = agreement(table("here", kept), table("kept", kept))
    assert agreement_sentence(same) == (
        "The two agree: all values of the 2 arms that both have (12) are the same, to the last bit."
    )
    sentences = {agreement_sentence(replace(same, arms=(replace(same.arms[0], word=word),))) for word in get_args(Word)}
    assert len(sentences) == len(get_args(Word))
    assert "Undecided for ce: the seeds show neither a change nor agreement within 1 point." in sentences
