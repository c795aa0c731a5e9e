"""docs/configuration.md against the schema."""

from make_docs import PAGE, reference

from focalbench.config.faults import all_keys


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python scripts/make_docs.py"


def test_page_names_every_key():
    text = reference()
    for key in all_keys():
        assert f"`{key.rpartition('.')[2]}`" in text or f"`{key}`" in text, key


def test_tables_are_whole():
    for line in reference().splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") == 5, line
