"""``python -m unisat`` does the same as the command ``unisat``."""

from unisat.cli import main

if __name__ == "__main__":
    main()
