"""What command lines share: output, logs, errors, signals, health, and finding `MODULE:NAME`."""

from ._errors import ExtraMissingError, ModuleBrokenError, ObjectMissingError, PortTakenError
from ._health import (
    MAX_PORT,
    HealthHostOption,
    HealthPortOption,
    Probed,
    check_health_port,
    health_checks,
    serve_health,
)
from ._load import import_module, load
from ._logging import LogLevel, configure_logging
from ._loop import fast_event_loop
from ._options import JsonOption
from ._output import note, print_fields, print_json, print_table, printable, say, since
from ._program import new_program, run_program
from ._stop import LEAVE, on_stop_signal, stop_with_stdin

__all__ = [
    "LEAVE",
    "MAX_PORT",
    "ExtraMissingError",
    "HealthHostOption",
    "HealthPortOption",
    "JsonOption",
    "LogLevel",
    "ModuleBrokenError",
    "ObjectMissingError",
    "PortTakenError",
    "Probed",
    "check_health_port",
    "configure_logging",
    "fast_event_loop",
    "health_checks",
    "import_module",
    "load",
    "new_program",
    "note",
    "on_stop_signal",
    "print_fields",
    "print_json",
    "print_table",
    "printable",
    "run_program",
    "say",
    "serve_health",
    "since",
    "stop_with_stdin",
]
