"""Statistics of paired runs: numbers in, numbers and words out; no files, no configuration."""
