"""What was handled, in any process: known from outside, also of those that were killed."""

import os
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec

Step = Literal["begun", "done"]


class Note(msgspec.Struct, frozen=True):
    """A step of one event on one durable."""

    step: Step
    durable: str
    key: str
    number: int
    pid: int


decode_lines = msgspec.json.Decoder(Note).decode_lines


def leave_note(step: Step, durable: str, number: int, key: str = "") -> None:
    """Leave a line in the file that `NOTES_FILE` names; a short append is whole."""
    note = Note(step, durable, key, number, os.getpid())
    file = os.open(os.environ["NOTES_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, msgspec.json.encode(note) + b"\n")
    finally:
        os.close(file)


class Notes:
    """The notes of all processes, read from the file where they leave lines."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def all(self) -> list[Note]:
        """Return the notes so far, in order."""
        if not self._file.exists():
            return []
        return decode_lines(self._file.read_bytes())

    def numbers(self, step: Step, durable: str) -> set[int]:
        """Return the events that have come so far on a durable."""
        notes = self.all()
        return {note.number for note in notes if (note.step, note.durable) == (step, durable)}

    def of(self, step: Step, pid: int) -> set[tuple[str, int]]:
        """Return the events that have come so far in a process, by key and number."""
        notes = self.all()
        return {(note.key, note.number) for note in notes if (note.step, note.pid) == (step, pid)}

    def steps_by_key(self) -> dict[str, list[tuple[Step, int]]]:
        """Return what was done with the events of each key, each step where it came first."""
        found: dict[str, dict[tuple[Step, int], None]] = {}
        for note in self.all():
            found.setdefault(note.key, {})[note.step, note.number] = None
        # Setting a key of a dict again leaves it where it is.
        return {key: list(steps) for key, steps in found.items()}

    def num_repeated(self) -> int:
        """Return how many events were begun more than once on a durable."""
        begun = [note for note in self.all() if note.step == "begun"]
        starts = Counter((note.durable, note.key, note.number) for note in begun)
        return sum(count > 1 for count in starts.values())
