"""``python -m ingot`` is the command line, also under ``torchrun --nproc-per-node 2 -m ingot train RECIPE``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
