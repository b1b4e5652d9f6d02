"""What a server is made of: the daemon's default, another Postgres version, or an image that the operator allows.

An edition is a text: empty for the default, a major version ("17"), or an image's reference ("acme/postgres:17").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from leasedb_server.domain.errors import VersionUnavailableError

DEFAULT: Final = ""
_MARK: Final = "@"  # no template's name has one; an image's reference may


@dataclass(frozen=True, slots=True)
class Editions:
    """What can be asked of a backend.

    Args:
        default_major: the default's version; None when only a running server can tell.
        default_image: the default's image; None where servers do not come from images.
        majors: further versions.
        images: further images.
        installed: the versions that servers could be made of if they were allowed; None where that may be any.
    """

    default_major: str | None
    default_image: str | None
    majors: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    installed: tuple[str, ...] | None = None

    def resolve(self, postgres: str | None, image: str | None, *, running: Mapping[str, str]) -> str:
        """Return the edition that a request asks for.

        Where nothing is known of the default's version, it is the answer: once it runs, the caller has to look.

        Args:
            postgres: a major version or None.
            image: an image's reference or None.
            running: the versions of ready servers by edition; they win over what is configured.

        Raises:
            VersionUnavailableError: naming what can be asked for, and how to have more.
        """
        default = running.get(DEFAULT, self.default_major)
        if image is not None:
            edition = self._of_image(image, default)
            major = default if edition == DEFAULT else running.get(edition)
            if postgres is not None and major not in {None, postgres}:
                raise VersionUnavailableError(
                    f"The image {image} is Postgres {major}, and Postgres {postgres} is asked for.",
                    hint="Leave one of 'postgres' and 'image' out.",
                )
            return edition
        if postgres is None or postgres == default:
            return DEFAULT
        if postgres in self.majors:
            return postgres
        if default is None:
            return DEFAULT
        raise VersionUnavailableError(
            f"Postgres {postgres} is not served here; {self._served(default)}.", hint=self._more("postgres", postgres)
        )

    @property
    def lent(self) -> bool:
        """Whether there is one server, as it is."""
        return self.default_major is None and self.default_image is None

    def _of_image(self, image: str, default: str | None) -> str:
        if image == self.default_image:
            return DEFAULT
        if image in self.images:
            return image
        raise VersionUnavailableError(
            f"The image {image} is not served here; {self._served(default)}.", hint=self._more("image", image)
        )

    def _served(self, default: str | None) -> str:
        majors = dict.fromkeys([default or "the default's", *self.majors])
        images = dict.fromkeys(image for image in (self.default_image, *self.images) if image)
        return f"versions served: {', '.join(majors)}" + (f"; images: {', '.join(images)}" if images else "")

    def _more(self, member: str, value: str) -> str:
        if self.lent:
            return f"Leave '{member}' out: the daemon lends the one server that it was given."
        if member == "postgres":
            setting, could_be = f"LEASEDB_VERSIONS={_comma([*self.majors, value])}", self._installable(value)
        else:
            setting, could_be = f"LEASEDB_IMAGES={_comma([*self.images, value])}", self.default_image is not None
        if could_be:
            return f"Leave '{member}' out; or stop the daemon ('leasedb stop'), set {setting}, and run again."
        return (
            f"Leave '{member}' out; or, where Docker or Podman is, stop the daemon ('leasedb stop'), set"
            f" LEASEDB_BACKEND=container and {setting}, and run again."
        )

    def _installable(self, major: str) -> bool:
        return self.installed is None or major in self.installed


def image_with_vector(major: str) -> str:
    """Return the image in which the makers of pgvector publish it with this version of Postgres."""
    return f"pgvector/pgvector:pg{major}"


def key(template: str, edition: str) -> str:
    """Return the name by which a template of an edition is known inside the daemon: "shop", or "shop@17"."""
    return f"{template}{_MARK}{edition}" if edition else template


def parted(key: str) -> tuple[str, str]:
    """Return the template's name and the edition of which `key` was made."""
    template, _, edition = key.partition(_MARK)
    return template, edition


def _comma(words: list[str]) -> str:
    return ",".join(dict.fromkeys(words))
