"""What command lines share: output, logs, errors, signals, and finding `MODULE:NAME`."""

from ._errors import ModuleBrokenError, ObjectMissingError
from ._load import import_module, load
from ._logging import LogLevel, configure_logging
from ._options import JsonOption
from ._output import note, print_fields, print_json, print_table, say, since
from ._report import report
from ._stop import on_stop_signal, stop_with_stdin

__all__ = [
    "JsonOption",
    "LogLevel",
    "ModuleBrokenError",
    "ObjectMissingError",
    "configure_logging",
    "import_module",
    "load",
    "note",
    "on_stop_signal",
    "print_fields",
    "print_json",
    "print_table",
    "report",
    "say",
    "since",
    "stop_with_stdin",
]
