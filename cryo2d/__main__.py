"""``python -m cryo2d`` is the same as ``cryo2d``."""

from cryo2d.cli import main

if __name__ == "__main__":
    main()
