"""Writes docs/configuration.md from the configuration's schema; a test checks that it is up to date."""

from pathlib import Path

from focalbench.config.reference import reference

if __name__ == "__main__":
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    page.write_text(reference(), encoding="utf-8")
    print(f"wrote {page}")
