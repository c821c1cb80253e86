"""`python -m jetq`: the same as the command `jetq`."""

from .cli import main

# A process of the pool that runs `process=True` tasks loads this file too, as `__mp_main__`.
if __name__ == "__main__":
    main()
