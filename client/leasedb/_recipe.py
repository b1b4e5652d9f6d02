"""How a template is made, and which ones a client made: what `Client.template` decides before it asks anybody."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leasedb import _sql
from leasedb._errors import InvalidRequestError
from leasedb._fingerprint import Part, Parts, check_parts, fingerprint, of_function
from leasedb._sql import Sql
from leasedb._template import Template
from leasedb._template_calls import Order

Source = str | Path | Sql
Build = Callable[[Any], object] | str | Path
Key = tuple[str, str | None, str | None]  # name, postgres, image

_SHOWN: Final = 12  # hexadecimal digits of the fingerprint in a template's name


@dataclass(frozen=True, slots=True)
class Recipe:
    """A template that is wanted, and what makes it."""

    order: Order
    build: Sql | Callable[[Any], object]

    @property
    def key(self) -> Key:
        return self.order.name, self.order.postgres, self.order.image

    @property
    def parent_key(self) -> Key:
        return self.order.parent, self.order.postgres, self.order.image


def plan(
    name: str, build: Build, parent_fingerprint: str, given: Parts | None, finish: Callable[[str, str], Order]
) -> Recipe:
    """Decide what a template is called and made of; reads the files that count.

    Args:
        name: the beginning of its name.
        build: what makes it.
        parent_fingerprint: of what it is built upon.
        given: a fingerprint for what ``build`` is, or parts of one beside what can be found out.
        finish: makes the order of the whole name and fingerprint.

    Raises:
        InvalidRequestError: nothing tells one version of ``build`` from the next.
        FileUnreadableError: a file is not there.
    """
    made_of = _source(build)
    whole = fingerprint("template", parent_fingerprint, *_parts(made_of, given))
    return Recipe(finish(f"{name}-{whole.removeprefix('sha256:')[:_SHOWN]}", whole), made_of)


def sql_source(build: Source) -> Sql:
    if isinstance(build, Sql):
        return build
    return _sql.of_text(build) if isinstance(build, str) else _sql.of_path(build)


def _source(build: Build) -> Sql | Callable[[Any], object]:
    if isinstance(build, str | Path):
        return sql_source(build)
    if not callable(build):
        raise TypeError(f"a template is built by a function, SQL text or a Path, not by {type(build).__name__}")
    return build


def _parts(build: Sql | Callable[[Any], object], given: Parts | None) -> Sequence[Part]:
    if isinstance(given, str):
        return (given,)
    more = tuple(given or ())
    check_parts(more)
    own = build.parts if isinstance(build, Sql) else of_function(build)
    if not own and not more:
        raise InvalidRequestError(
            f"Nothing tells one version of {build!r} from the next: the file it stands in was not found.",
            hint="Give fingerprint=[...] with what it is made of, such as Path('migrations').",
        )
    return (*own, *more)


def is_async(build: Callable[[Any], object]) -> bool:
    """Tell whether a call of this is to be awaited on the event loop."""
    called = getattr(build, "__call__", None)  # noqa: B004 - of an object with an async __call__
    return inspect.iscoroutinefunction(build) or inspect.iscoroutinefunction(called)


def check_done(returned: object) -> None:
    """Refuse what a function returned that is still to be awaited: nothing of it has happened."""
    if inspect.isawaitable(returned):
        if inspect.iscoroutine(returned):
            returned.close()
        raise TypeError("what builds the template is async, and Client does not await it: use AsyncClient")


def told(error: BaseException) -> str | None:
    """Return what those who wait for a failed build are told; None when the build was only broken off."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | asyncio.CancelledError):
        return None
    return f"{type(error).__name__}: {error}".rstrip(": ")


def edition_of(template: Template | str, postgres: str | None, image: str | None) -> Key:
    """Return a template's name and the Postgres that is meant: what was asked for, else what it was made for."""
    if not isinstance(template, Template) or postgres is not None or image is not None:
        return str(template), postgres, image
    return template.name, template.postgres, template.image


class Recipes:
    """The templates that a client made or found made, and how to make them again when they are gone."""

    def __init__(self) -> None:
        self._recipes: dict[Key, Recipe] = {}
        self._made: dict[Key, Template] = {}

    def made(self, recipe: Recipe) -> Template | None:
        return self._made.get(recipe.key)

    def keep(self, recipe: Recipe, template: Template) -> None:
        self._recipes[recipe.key] = recipe
        self._made[recipe.key] = template

    def gone(self, key: Key) -> Recipe | None:
        """Take note that a template is not there any more; return how to make it again."""
        self._made.pop(key, None)
        return self._recipes.get(key)
