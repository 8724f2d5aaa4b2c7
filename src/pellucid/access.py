"""Who may come in through a door that listens: the address, its names, tokens.

The service and the page share it, with defaults that are safe and the check that refuses an unsafe start.
"""

import hashlib
import hmac
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from pellucid.errors import ForbiddenError, InputError

SHORTEST_TOKEN = 16  # characters; shorter ones can be guessed
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Tokens:
    """The tokens that are let in. Only their hashes are kept, so no log and no dump can show them."""

    def __init__(self, tokens: list[str]) -> None:
        """Keep the hashes of `tokens`.

        Raises:
            InputError: one is shorter than 16 characters.
        """
        if any(len(token) < SHORTEST_TOKEN for token in tokens):
            raise InputError(
                f"A token has fewer than {SHORTEST_TOKEN} characters; expected a long random one. "
                'Make one with: python -c "import secrets; print(secrets.token_urlsafe())"'
            )
        self._hashes = [hashlib.sha256(token.encode()).digest() for token in tokens]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def allow(self, token: bytes) -> bool:
        """Whether it is one of them, in a time that does not depend on where it differs."""
        given = hashlib.sha256(token).digest()
        same = [hmac.compare_digest(given, known) for known in self._hashes]  # all of them, always
        return any(same)


def read_tokens(path: Path) -> Tokens:
    """The tokens of a file, one a line; two lines let clients change over.

    Raises:
        InputError: it can't be read, holds none, or holds a short one.
    """
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The file of tokens {path} can't be read: {getattr(error, 'strerror', None) or error}. "
            "Check the path and its permissions."
        ) from error
    if not lines:
        raise InputError(f"The file of tokens {path} is empty; expected one token a line.")
    return Tokens(lines)


@dataclass(frozen=True)
class Access:
    """Where to listen, and who is let in.

    Attributes:
        host, port: where to listen. Port 0 lets the system choose.
        tokens: one of them must come with every request; none: everybody is let in.
        public: listen on other addresses than loopback without a token.
        origins: of web pages that may call (`https://example.org`); by default none but the door's own.
        hosts: names by which it may be called besides loopback's own and `host`; without any, every name may
            where there is a token or `public`, else only these.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: Tokens = field(default_factory=lambda: Tokens([]))
    public: bool = False
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names by which it may be called; empty: any.

        Without a token only the address protects what listens on loopback, and a web page can give a name of
        its own that address (DNS rebinding).
        """
        if not self.hosts and (self.tokens or self.public):
            return frozenset()
        return frozenset((*LOOPBACK_NAMES, self.host.lower(), *self.hosts))

    def check_host(self, host: str) -> None:
        """Refuse a request by its header `Host`.

        Raises:
            ForbiddenError: called by a name that isn't allowed.
        """
        allowed, host = self.allowed_hosts, host.lower()
        if allowed and re.sub(r":\d+$", "", host) not in allowed:
            raise ForbiddenError(
                f"The service was called as {host[:100]!r}; expected one of {', '.join(sorted(allowed))}. "
                "Its operator can allow a name with --allow-host."
            )

    def check_origin(self, origin: str | None, own: str) -> None:
        """Refuse a request by its header `Origin`: pages of other sites may not even ask unseen.

        Args:
            origin: the header, or none.
            own: the origin of the door itself.

        Raises:
            ForbiddenError: the page that asks is of another origin, which isn't allowed.
        """
        if origin is not None and origin not in (own, *self.origins):
            raise ForbiddenError(
                f"Pages of {origin[:100]!r} may not use this service. "
                "Its operator can allow an origin with --allow-origin."
            )


def listen(access: Access) -> socket.socket:
    """A socket bound to the host and port, once it is clear that this is safe.

    Raises:
        InputError: the address is not loopback's, and there is neither a token nor the word that it is meant;
            or it can't be bound.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            access.host, access.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"The host {access.host!r} is not known ({error}). Check the name.") from error
    # The address that is checked is the one that is bound: a name could lead elsewhere the second time.
    if not ipaddress.ip_address(address[0]).is_loopback and not access.tokens and not access.public:
        raise InputError(
            f"{access.host} can be reached from other machines, and no token is set; expected a token, or "
            "a loopback address such as 127.0.0.1. Give --token-file (or PELLUCID_TOKEN), or, if everybody "
            "may use it, --public."
        )
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        bound.close()
        raise InputError(
            f"{access.host} port {access.port} can't be listened on: "
            f"{getattr(error, 'strerror', None) or error}. Choose another --port."
        ) from error
    return bound
