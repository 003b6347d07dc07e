"""``python -m bananas_core.cli`` is the ``bananas`` command."""

from bananas_core.cli import main

if __name__ == "__main__":
    main()
