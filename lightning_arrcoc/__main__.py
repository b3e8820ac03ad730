"""``python -m lightning_arrcoc COMMAND [hydra overrides]``."""

from lightning_arrcoc.cli import main

if __name__ == "__main__":
    main()
