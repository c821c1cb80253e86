"""A task's parameters and result as types: what validates, encodes and decodes them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, get_type_hints

import msgspec

from ipc import decoder, encode

from ._errors import TaskArgumentError, TaskDefinitionError

__all__ = ["Signature"]


class Signature:
    """The arguments and the result of one task.

    Annotations are resolved when they are first needed, so that a task may name
    classes that its module defines further down.
    """

    def __init__(self, task: str, function: Callable[..., Any]) -> None:
        """Look at a function's parameters.

        Raises:
            TaskDefinitionError: It takes `*args` or `**kwargs`, which have no names to be sent by.
        """
        self.task = task
        self._function = function
        self._signature = inspect.signature(function)
        parameters = self._signature.parameters.values()
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TaskDefinitionError(
                    task, f"parameter {parameter} has no fixed name; take a list or a dict instead"
                )
        self._positional = tuple(p.name for p in parameters if p.kind != p.KEYWORD_ONLY)
        self._by_position_only = tuple(p.name for p in parameters if p.kind == p.POSITIONAL_ONLY)
        self._required = frozenset(p.name for p in parameters if p.default is p.empty)

    # -- enqueue --------------------------------------------------------------------

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> msgspec.Raw:
        """Return the arguments of a call as they go on the wire.

        Raises:
            TaskArgumentError: They do not fit the parameters, by number, name or type.
        """
        given = self._bind(args, kwargs)
        try:
            # Twice, because each sees what the other does not: `convert` that a datetime
            # is no str, the decoder that a Struct's own field has the wrong type.
            raw = encode(msgspec.convert(given, self._arguments))
            self._decode_arguments(raw)
        except msgspec.ValidationError as exc:
            raise self._argument_error(exc) from exc
        except (TypeError, ValueError, OverflowError) as exc:
            raise TaskArgumentError(self.task, f"cannot be encoded: {exc}") from exc
        return msgspec.Raw(raw)

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(zip(self._positional, args, strict=False))
        given.update(kwargs)
        if len(given) != len(args) + len(kwargs) or not self._required.issubset(given):
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as exc:
                raise TaskArgumentError(self.task, str(exc)) from None
        return given

    # -- execute ----------------------------------------------------------------------

    def decode(self, raw: bytes | msgspec.Raw) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments to call the function with.

        Raises:
            TaskArgumentError: They do not fit the parameters.
        """
        try:
            decoded = self._decode_arguments(raw)
        except msgspec.DecodeError as exc:
            raise self._argument_error(exc) from exc
        except Exception as exc:
            # What a type of the user's raises while it is made, or JSON nested too deeply.
            problem = f"cannot be decoded: {type(exc).__name__}: {exc}"
            raise TaskArgumentError(self.task, problem) from exc
        given = msgspec.structs.asdict(decoded)
        if len(self._required) < len(given):
            given = {name: value for name, value in given.items() if value is not msgspec.UNSET}
        if not self._by_position_only:
            return [], given
        return [given.pop(name) for name in self._by_position_only if name in given], given

    # -- settle ---------------------------------------------------------------------

    def encode_result(self, result: Any) -> msgspec.Raw:
        """Return a result as it is stored.

        Raises:
            TypeError: It has a type that cannot be encoded.
            msgspec.ValidationError: It is not what the function promises to return.
        """
        raw = encode(result)
        self.decode_result(raw)
        return msgspec.Raw(raw)

    @cached_property
    def decode_result(self) -> Callable[[bytes | msgspec.Raw], Any]:
        """Decode a stored result into the function's return type."""
        return self._decoder(self._hints.get("return", Any), "the return type")

    # -- types ------------------------------------------------------------------------

    def resolve(self) -> None:
        """Look up every annotation now.

        Raises:
            TaskDefinitionError: One names nothing, or a type that cannot be encoded.
        """
        _ = self._decode_arguments, self.decode_result

    @cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return get_type_hints(self._function, include_extras=True)
        except (NameError, TypeError) as exc:
            raise TaskDefinitionError(
                self.task, f"an annotation cannot be resolved: {exc}"
            ) from exc

    @cached_property
    def _arguments(self) -> type[msgspec.Struct]:
        fields: list[Any] = []
        for name in self._signature.parameters:
            annotation = self._hints.get(name, Any)
            if name in self._required:
                fields.append((name, annotation))
            else:
                # Left out where the caller leaves it out: the worker's default counts.
                fields.append((name, annotation | msgspec.UnsetType, msgspec.UNSET))
        return msgspec.defstruct(
            "Arguments", fields, kw_only=True, forbid_unknown_fields=True, frozen=True
        )

    @cached_property
    def _decode_arguments(self) -> Callable[[bytes | msgspec.Raw], Any]:
        return self._decoder(self._arguments, "a parameter")

    def _decoder(self, wanted: Any, what: str) -> Callable[[bytes | msgspec.Raw], Any]:
        try:
            return decoder(wanted)
        except TypeError as exc:
            raise TaskDefinitionError(self.task, f"{what} cannot be encoded: {exc}") from exc

    def _argument_error(self, exc: Exception) -> TaskArgumentError:
        """Say which argument it was: msgspec appends "- at `$.name…`"."""
        problem, _, path = str(exc).partition(" - at `$")
        name = re.match(r"\.(\w+)", path)
        argument = name.group(1) if name else None
        inner = path.rstrip("`")[len(argument) + 1 :] if argument else ""
        return TaskArgumentError(self.task, problem + (f" at {inner!r}" if inner else ""), argument)
