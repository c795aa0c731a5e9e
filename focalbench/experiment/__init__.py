"""From a configuration to finished trials: building the parts, training one trial, keeping the books of a sweep."""
