"""`python -m peergram.cli` is the `peergram` command."""

from peergram.cli import main

if __name__ == "__main__":
    main()
