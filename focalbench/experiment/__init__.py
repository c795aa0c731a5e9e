"""From a configuration to a finished trial: builds the parts, trains, evaluates, writes down what was found."""
