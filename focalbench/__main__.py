"""``python -m focalbench`` is the command ``focalbench``."""

from focalbench.cli import main

if __name__ == "__main__":
    main()
