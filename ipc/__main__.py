"""`python -m ipc` is the command `ipc`."""

from ipc.cli import main

if __name__ == "__main__":
    main()
