"""Every kind of bad data gets its verdict: an error, a warning with a repair, or no word; and nothing is written."""

from pathlib import Path

import pytest
from injection.bad_data import CASES, BadData
from injection.commands import digest_of
from injection.voc_set import VocSet

from focalbench.data.check import check_data


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if not case.heavy])
def test_bad_data_get_their_verdict(case: BadData, tmp_path: Path) -> None:
    voc = VocSet(tmp_path / "data")
    case.plant(voc)
    before = digest_of(voc.root)
    report = check_data(voc.root, ("2007/train",), ("2007/val",), case.classes or "auto", cache_dir=tmp_path / "cache")
    errors, warnings = ({fault.kind for fault in faults} for faults in (report.errors, report.warnings))
    if case.group in ("error", "hostile"):
        assert errors == case.kinds
        assert all(fault.file and fault.reason for fault in report.errors)
    else:
        assert (errors, warnings) == (set(), case.kinds)
    assert digest_of(voc.root) == before


def test_the_set_that_is_spoilt_is_sound(tmp_path: Path) -> None:
    report = check_data(VocSet(tmp_path / "data").root, ("2007/train",), ("2007/val",), cache_dir=tmp_path / "cache")
    assert (report.errors, report.warnings) == ((), ())
