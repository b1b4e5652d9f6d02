"""Templates, as `Client` has them."""

import logging
from collections.abc import Mapping

from leasedb._base_lease import BaseLease
from leasedb._errors import LeasedbError, ParentMissingError, UnknownTemplateError
from leasedb._exchange import Pid
from leasedb._fingerprint import Parts
from leasedb._lease import Lease
from leasedb._models import LeaseRecord
from leasedb._protocol import Terms
from leasedb._recipe import Build, Recipe, Recipes, Source, check_done, edition_of, is_async, plan, sql_source, told
from leasedb._sql import Sql
from leasedb._template import Template, Templates
from leasedb._template_calls import Order
from leasedb._transport import Line

_log = logging.getLogger("leasedb")


class TemplateMethods:
    """The part of a client that is about templates."""

    _line: Line
    _recipes: Recipes

    def template(
        self,
        name: str,
        build: Build,
        *,
        parent: Template | str = "base",
        fingerprint: Parts | None = None,
        postgres: str | None = None,
        image: str | None = None,
        wait: float = 600.0,
        ttl: float | None = None,
        holder: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Template:
        """Return a template with this content; it is built once, whoever asks for it and however many do.

            template = client.template("shop", build=Path("schema"))
            with client.lease(template) as lease: ...

        Another content is another template, so versions live side by side, and unused ones are evicted.

        Args:
            name: the beginning of its name; the end is of the fingerprint.
            build: SQL as text, a `Path` of an .sql file (a plain dump too) or of a folder of them, which run in the
                order of their names; or a function that is given a lease on a clone of the parent, and whose sessions
                are ended when it returns. For `AsyncClient` it may be async; one that is not runs in a thread.
            parent: what it is built upon, a name or what this method returned.
            fingerprint: parts for `leasedb.fingerprint` that tell one content from another, beside what is known: the
                SQL, the parent, or the file a function stands in. What a function reads has to be named here, such as
                ``[Path("migrations")]``. A single text stands for all of that.
            postgres: the major version that it is for, such as "17"; the parent's or the daemon's when left out.
            image: the image of the servers that it is for, likewise.
            wait: seconds to wait at most while somebody else builds it.
            ttl: seconds without a sign of life after which a function's build is given up.
            holder: who builds, as in `acquire`.
            labels: of the lease that a function builds in.

        Raises:
            SqlFailedError: a statement failed; ``file`` and ``line`` say which.
            BuildFailedError: somebody else's build, which this call waited for, failed.
            TemplateBuildingError: somebody else still builds it after ``wait`` seconds.
            LeasedbError: the daemon refused, for the reason told.
            BaseException: what the function raised; others who wait for it get a `BuildFailedError`.
        """
        if callable(build) and is_async(build):
            raise TypeError(f"{build!r} is async, and Client does not await it: use AsyncClient")
        _, postgres, image = edition_of(parent, postgres, image)
        parent_fingerprint = self._line.run(self._line.wire.fingerprint_of(parent, postgres, image))

        def order(whole_name: str, whole: str) -> Order:
            return Order(
                name=whole_name,
                fingerprint=whole,
                parent=str(parent),
                postgres=postgres,
                image=image,
                wait=wait,
                ttl=ttl,
                holder=holder,
                labels=labels,
            )

        recipe = plan(name, build, parent_fingerprint, fingerprint, order)
        return self._recipes.made(recipe) or self._make(recipe)

    def templates(self) -> Templates:
        """List the templates: those that are there, those being built, and those whose build failed."""
        return self._line.run(self._line.wire.templates())

    def get_template(self, name: str, *, postgres: str | None = None, image: str | None = None) -> Template:
        """Return a template by its whole name.

        Raises:
            TemplateNotFoundError: there is none.
        """
        return self._line.run(self._line.wire.get_template(name, postgres=postgres, image=image))

    def delete_template(self, name: str, *, postgres: str | None = None, image: str | None = None) -> None:
        """Delete a template.

        Raises:
            TemplateNotFoundError: there is none.
            TemplateInUseError: there are leases on it, or it is being built.
        """
        self._line.run(self._line.wire.delete_template(name, postgres=postgres, image=image))

    def put_template(
        self,
        name: str,
        sql: Source,
        *,
        parent: Template | str = "base",
        fingerprint: str | None = None,
        postgres: str | None = None,
        image: str | None = None,
        wait: float = 60.0,
    ) -> Template:
        """Build a template of exactly this name from SQL, unless it is there with this content.

        Args:
            name: of the template.
            sql: text, or the `Path` of a file or of a folder of .sql files.
            parent: what it is built upon.
            fingerprint: what tells its content from another; made of the parent and the SQL when left out.
            postgres: the major version that it is for.
            image: the image of the servers that it is for.
            wait: seconds to wait at most while somebody else builds it.

        Raises:
            TemplateExistsError: there is one of this name with another content.
            SqlFailedError: a statement failed; ``file`` and ``line`` say which.
            BuildFailedError: somebody else's build, which this call waited for, failed.
            TemplateBuildingError: somebody else still builds it after ``wait`` seconds.
        """
        order = Order(name=name, fingerprint=fingerprint, parent=str(parent), postgres=postgres, image=image, wait=wait)
        return self._line.run(self._line.wire.put_template(order, sql_source(sql)))

    def build_template(
        self,
        name: str,
        fingerprint: str,
        *,
        parent: Template | str = "base",
        ttl: float | None = None,
        wait: float = 60.0,
        holder: str | None = None,
        labels: Mapping[str, str] | None = None,
        postgres: str | None = None,
        image: str | None = None,
        pid: Pid = "auto",
        heartbeat: bool = True,
    ) -> "tuple[Template, Lease | None]":
        """Become the builder of a template of exactly this name, unless it is there with this fingerprint.

        Returns:
            The template, and None when it is there; else a lease on a clone of the parent, to be filled and then given
            to `seal_template` or `abandon_template`. When its holder dies, whoever waits next becomes the builder.

        Args:
            name: of the template.
            fingerprint: of its content.
            parent: what it is built upon.
            ttl: seconds until the build is given up unless its lease is renewed.
            wait: seconds to wait at most while somebody else builds it.
            holder: who builds, as in `acquire`; so are ``labels``, ``pid`` and ``heartbeat``.
            labels: of the lease.
            postgres: the major version that it is for.
            image: the image of the servers that it is for.
            pid: the process with which the build ends.
            heartbeat: renew the lease in the background.

        Raises:
            TemplateExistsError: there is one of this name with another fingerprint.
            BuildFailedError: somebody else's build, which this call waited for, failed.
            TemplateBuildingError: somebody else still builds it after ``wait`` seconds.
        """
        _, postgres, image = edition_of(parent, postgres, image)
        order = Order(
            name=name,
            fingerprint=fingerprint,
            parent=str(parent),
            postgres=postgres,
            image=image,
            wait=wait,
            ttl=ttl,
            holder=holder,
            labels=labels,
        )
        template, record = self._line.run(self._line.wire.build_template(order, pid))
        return template, None if record is None else Lease(self._line, record, heartbeat=heartbeat)

    def seal_template(self, name: str, lease: BaseLease | str, *, force: bool = False) -> Template:
        """Make what a build lease's database holds the template, and end the lease.

        Args:
            name: of the template.
            lease: the one that `build_template` returned, or its id.
            force: end the sessions on the database, which are in the way otherwise.

        Raises:
            SessionsOpenError: there are some, and ``force`` is not given.
            NotTheBuilderError: this lease is not the one.
        """
        if isinstance(lease, Lease):
            return lease._seal(name, force=force)  # noqa: SLF001 - it stops to renew
        return self._line.run(self._line.wire.seal_template(name, str(lease), force=force))

    def abandon_template(self, name: str, lease: BaseLease | str, error: str | None = None) -> None:
        """Give a build up, and end its lease.

        Args:
            name: of the template.
            lease: the one that `build_template` returned, or its id.
            error: why, for those who wait: they fail with it. Without it the next of them becomes the builder.
        """
        if isinstance(lease, Lease):
            lease._abandon(name, error)  # noqa: SLF001 - as above
        else:
            self._line.run(self._line.wire.abandon_template(name, str(lease), error))

    def _leased(self, terms: Terms) -> LeaseRecord:
        try:
            return self._line.run(self._line.wire.acquire(terms))
        except UnknownTemplateError:
            recipe = self._recipes.gone(terms.key)
            if recipe is None:
                raise
        self._make(recipe)
        return self._line.run(self._line.wire.acquire(terms))

    def _make(self, recipe: Recipe) -> Template:
        try:
            template = self._make_once(recipe)
        except ParentMissingError:
            parent = self._recipes.gone(recipe.parent_key)
            if parent is None:
                raise
            self._make(parent)
            template = self._make_once(recipe)
        self._recipes.keep(recipe, template)
        return template

    def _make_once(self, recipe: Recipe) -> Template:
        if isinstance(recipe.build, Sql):
            return self._line.run(self._line.wire.put_template(recipe.order, recipe.build))
        template, record = self._line.run(self._line.wire.build_template(recipe.order, "auto"))
        if record is None:
            return template
        lease = Lease(self._line, record, heartbeat=True)
        try:
            check_done(recipe.build(lease))
            return lease._seal(template.name, force=True)  # noqa: SLF001 - a half of one mechanism
        except BaseException as error:
            self._give_up(template.name, lease, error)
            raise

    def _give_up(self, name: str, lease: Lease, error: BaseException) -> None:
        try:
            lease._abandon(name, told(error))  # noqa: SLF001 - as above
        except LeasedbError as failure:
            _log.warning("the build of template %s could not be given up and ends by itself: %s", name, failure)
