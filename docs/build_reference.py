"""Writes `docs/reference.md` from the docstrings of the public names and the command line.

    python docs/build_reference.py

Read without running it, by griffe; the command line by typer's own documentation.
"""

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference.md"

HEADER = """\
# Reference

Generated from the docstrings by `make docs`; do not edit.

Times are seconds unless a name says otherwise. Names in `_at` are UTC datetimes.
"""

PACKAGES = {
    "jetq": "Tasks, jobs and workers. What concerns the server itself comes from `ipc`.",
    "ipc": "Events, requests, services and durables; the connection and the local servers under "
    "them. Usable alone.",
}

# Inherited from these a member says nothing new.
FOREIGN_BASES = {"Exception", "TypedDict", "NamedTuple", "Protocol", "Struct"}

# Python's own, shown by every exception.
FOREIGN_MEMBERS = {"args"}


def build() -> str:
    """Return the whole page."""
    parts = [HEADER]
    loader = griffe.GriffeLoader(search_paths=[str(ROOT)])
    for package in PACKAGES:
        loader.load(package)
    for package, purpose in PACKAGES.items():
        parts.append(f"## {package}\n\n{purpose}\n")
        parts.extend(describe_package(loader.modules_collection[package]))
    parts.extend(describe_command_line(package) for package in PACKAGES)
    return formatted("\n".join(parts).rstrip() + "\n")


def formatted(page: str) -> str:
    """Return the page with its code formatted like all of the repository's."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", REFERENCE.name, "-"]
    return subprocess.run(
        command, input=page, check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout


# -- Python ---------------------------------------------------------------------------------


def describe_package(module: griffe.Module) -> Iterator[str]:
    """Yield a section for each public name: classes and functions first, then errors."""
    package = module.name
    names = [str(name).strip("'\"") for name in module.exports or ()]
    found = [(name, target_of(module[name])) for name in names]
    own = [(name, target) for name, target in found if belongs_to(target, package)]
    errors = [pair for pair in own if pair[0].endswith("Error")]
    others = [pair for pair in own if not pair[0].endswith("Error")]
    for name, target in others:
        yield describe(name, target)
    yield f"### Errors of {package}\n"
    tree = module["_errors"]
    yield f"```text\n{tidy_tree(tree.docstring)}\n```\n"
    for name, target in errors:
        yield describe_error(name, target)
    elsewhere = [name for name, target in found if not belongs_to(target, package)]
    if elsewhere:
        listed = ", ".join(f"[`{name}`](#{anchor(name)})" for name in elsewhere)
        yield f"Also importable from `{package}`: {listed}.\n"


def target_of(item: griffe.Object | griffe.Alias) -> griffe.Object:
    """Return what a re-exported name stands for."""
    return item.final_target if isinstance(item, griffe.Alias) else item


def belongs_to(target: griffe.Object, package: str) -> bool:
    """Return whether a name is defined in the package that exports it."""
    return target.path.startswith(f"{package}.")


def anchor(name: str) -> str:
    """Return what a heading is linked by."""
    return name.lower()


def describe(name: str, target: griffe.Object) -> str:
    """Return the section of one name."""
    lines = [f"### {name}\n"]
    if isinstance(target, griffe.Class):
        lines.append(describe_class(target))
    elif isinstance(target, griffe.Function):
        lines.append(code(signature(target)))
        lines.append(text_of(target))
    else:
        lines.append(code(source_of(target)))
        lines.append(text_of(target))
    return "\n".join(line for line in lines if line)


def describe_error(name: str, target: griffe.Object) -> str:
    """Return the entry of one error: what it means and what it carries."""
    lines = [f"#### {name}\n", text_of(target)]
    carried = [f"`{member.name}`" for member in fields(target) if not member.name.startswith("_")]
    if carried:
        lines.append(f"Carries {', '.join(carried)}.\n")
    return "\n".join(line for line in lines if line)


def describe_class(target: griffe.Class) -> str:
    """Return a class: how it is made, what it holds, what it does."""
    lines: list[str] = []
    members = list(public_members(target))
    init = target.members.get("__init__")
    if isinstance(init, griffe.Function) and init.docstring:
        lines.append(code(signature(init, name=target.name)))
        lines.append(text_of(target))
        lines.append(text_of(init))
    else:
        lines.append(text_of(target))
    attributes = [member for member in members if isinstance(member, griffe.Attribute)]
    if attributes:
        lines.append("\n".join(describe_attribute(one) for one in attributes) + "\n")
    for member in members:
        if isinstance(member, griffe.Function):
            lines.append(f"#### {target.name}.{member.name}\n")
            lines.append(code(signature(member)))
            lines.append(text_of(member))
            lines.append(describe_options(member))
    return "\n".join(line for line in lines if line)


def public_members(target: griffe.Class) -> Iterable[griffe.Object]:
    """Return the members that people use, inherited ones included, each name once."""
    hidden = FOREIGN_MEMBERS if is_exception(target) else set[str]()
    own = [
        member
        for name, member in target.members.items()
        if not name.startswith("_") and name not in hidden
    ]
    seen = {member.name for member in own}
    found = [target_of(member) for member in own]
    for base in target.resolved_bases:
        if base.name in FOREIGN_BASES or not isinstance(base, griffe.Class):
            continue
        for member in public_members(base):
            if member.name not in seen:
                seen.add(member.name)
                found.append(member)
    return [
        member
        for member in found
        if not isinstance(member, griffe.Function) or member.docstring is not None
    ]


def is_exception(target: griffe.Class) -> bool:
    """Return whether a class is raised."""
    bases = [str(base) for base in target.bases]
    return "Exception" in bases or any(
        isinstance(base, griffe.Class) and is_exception(base) for base in target.resolved_bases
    )


def fields(target: griffe.Object) -> list[griffe.Attribute]:
    """Return the attributes of a class that are not inherited from outside."""
    if not isinstance(target, griffe.Class):
        return []
    return [member for member in public_members(target) if isinstance(member, griffe.Attribute)]


def describe_attribute(member: griffe.Attribute) -> str:
    """Return a line for an attribute: name, type, default and meaning."""
    annotation = f": {member.annotation}" if member.annotation else ""
    default = ""
    if member.value is not None and "class-attribute" in member.labels:
        value = str(member.value)
        default = f" = {value}" if "field(" not in value and len(value) < 40 else ""
    meaning = " ".join(text_of(member).split())
    return f"- `{member.name}{annotation}{default}`" + (f": {meaning}" if meaning else "")


def signature(function: griffe.Function, name: str | None = None) -> str:
    """Return a function as it is written, without its body; one parameter a line if long."""
    parameters = [
        parameter for parameter in function.parameters if parameter.name not in ("self", "cls")
    ]
    shown: list[str] = []
    keyword_only = False
    for index, parameter in enumerate(parameters):
        kind = parameter.kind
        if kind is griffe.ParameterKind.keyword_only and not keyword_only:
            keyword_only = True
            shown.append("*")
        star = {
            griffe.ParameterKind.var_positional: "*",
            griffe.ParameterKind.var_keyword: "**",
        }.get(kind or griffe.ParameterKind.positional_or_keyword, "")
        keyword_only = keyword_only or star == "*"
        annotation = f": {parameter.annotation}" if parameter.annotation else ""
        equals = " = " if parameter.annotation else "="
        default = "" if star or parameter.default is None else f"{equals}{parameter.default}"
        shown.append(f"{star}{parameter.name}{annotation}{default}")
        following = parameters[index + 1].kind if index + 1 < len(parameters) else None
        positional = griffe.ParameterKind.positional_only
        if kind is positional and following is not positional:
            shown.append("/")
    start = ("async " if "async" in function.labels else "") + "def "
    start = "" if name else start
    returns = f" -> {function.returns}" if function.returns and not name else ""
    line = f"{start}{name or function.name}({', '.join(shown)}){returns}"
    if len(line) <= 88:
        return line
    inner = "".join(f"    {one},\n" for one in shown)
    return f"{start}{name or function.name}(\n{inner}){returns}"


def describe_options(function: griffe.Function) -> str:
    """Return what a function takes as `**options: Unpack[…]`."""
    for parameter in function.parameters:
        found = re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation))
        if found:
            options = function.module[found[1]]
            listed = "\n".join(describe_attribute(one) for one in fields(options))
            return f"**Options:**\n\n{listed}\n"
    return ""


def source_of(target: griffe.Object) -> str:
    """Return the assignment that defines a constant or an alias of a type."""
    value = target.value if isinstance(target, griffe.Attribute) else None
    return f"{target.name} = {value}" if value is not None else target.name


def code(text: str) -> str:
    """Return a block of Python."""
    return f"```py\n{text}\n```\n"


# -- docstrings -----------------------------------------------------------------------------


def text_of(target: griffe.Object) -> str:
    """Return a docstring as Markdown: its sections become lists."""
    if target.docstring is None:
        return ""
    paragraphs = re.split(r"\n\s*\n", textwrap.dedent(target.docstring.value).strip())
    return "\n".join(section(paragraph) + "\n" for paragraph in paragraphs)


def section(paragraph: str) -> str:
    """Return one paragraph; `Args:` and `Raises:` become lists of names."""
    head, _, body = paragraph.partition("\n")
    if head in ("Args:", "Raises:"):
        entries = re.split(r"\n(?=\S)", textwrap.dedent(body))
        return f"**{head}**\n\n" + "\n".join(entry(one) for one in entries)
    if paragraph.startswith("    "):
        return code(textwrap.dedent(paragraph)).rstrip()
    return paragraph


def entry(text: str) -> str:
    """Return `name: meaning` as a list item."""
    name, _, meaning = text.partition(":")
    return f"- `{name.strip()}`: {' '.join(meaning.split())}"


def tidy_tree(docstring: griffe.Docstring | None) -> str:
    """Return the drawing in the docstring of a module of errors."""
    lines = docstring.value.splitlines() if docstring else []
    drawn = [line for line in lines if re.match(r"\s*(\w+Error\b\s*$|[├│└]|\w+Error\s{2,})", line)]
    return textwrap.dedent("\n".join(drawn))


# -- the command line -------------------------------------------------------------------------


def describe_command_line(program: str) -> str:
    """Return what `typer utils docs` writes, one level of headings further down."""
    written = subprocess.run(
        [sys.executable, "-m", "typer", f"{program}.cli", "utils", "docs", "--name", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    lines = [line.rstrip() for line in written.splitlines()]
    deeper = [f"#{line}" if line.startswith("#") else line for line in lines]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(deeper)).replace(
        f"## `{program}`", f"## Command line: {program}", 1
    )


if __name__ == "__main__":
    REFERENCE.write_text(build(), encoding="utf-8")
