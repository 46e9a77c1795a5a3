"""Tags on the command line: `--tag user=ann`."""

from __future__ import annotations

import click


class TagType(click.ParamType[tuple[str, str]]):
    """A tag and its value."""

    name = "name=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Both."""
        if isinstance(value, tuple):
            return value
        name, equals, said = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not a tag such as user=ann", param, ctx)
        return name, said


TAG = TagType()


def distinct(tags: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Tags by name; naming one twice is wrong usage."""
    found = dict(tags)
    if len(found) < len(tags):
        raise click.UsageError("--tag names a tag twice; a task has one value of each")
    return found
