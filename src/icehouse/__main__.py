"""``python -m icehouse`` is ``icehouse``."""

from icehouse.cli import main

if __name__ == "__main__":
    main()
