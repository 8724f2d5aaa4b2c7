"""What an operator sets, with defaults that are safe, and the checks that refuse an unsafe start."""

import hashlib
import hmac
import ipaddress
import socket
from dataclasses import dataclass, field
from pathlib import Path

from pellucid.errors import InputError

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
class Settings:
    """Everything an operator sets; the defaults are those of `pellucid serve`.

    Attributes:
        host, port: where to listen. Port 0 lets the system choose.
        tokens: one of them must come with every request but for health; none: everybody is let in.
        public: listen on other addresses than loopback without a token.
        origins: of web pages that may use the service (`https://example.org`); by default none.
        hosts: names by which it may be called; by default loopback's own if there is no token, else all.
        max_bytes: of a request's body.
        max_pixels: width times height of a picture.
        upload_seconds: within which a body has to arrive.
        request_seconds: from there to the reply, waiting included.
        queue: requests that wait for the network or run on it; beyond them there is a 429.
        concurrency: requests with a body that are being read or answered; beyond them there is a 429.
        streams: clients that follow jobs at once; beyond them there is a 429.
        workers: processes that decode and encode.
        worker_bytes: of address space that each of them may take beyond what it starts with.
        worker_seconds: that one picture may take to decode or to encode.
        data: folder of jobs.
        max_jobs: that wait; beyond them there is a 429.
        job_seconds: that a job may run.
        keep_seconds: after which a finished job is forgotten.
        drain_seconds: that a stop waits for what is under way.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: Tokens = field(default_factory=lambda: Tokens([]))
    public: bool = False
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    max_bytes: int = 64 * 10**6
    max_pixels: int = 50 * 10**6
    upload_seconds: float = 30
    request_seconds: float = 120
    queue: int = 16
    concurrency: int = 32
    streams: int = 64
    workers: int = 2
    worker_bytes: int | None = None
    worker_seconds: float = 30
    data: Path = Path("pellucid-jobs")
    max_jobs: int = 100
    job_seconds: float = 3600
    keep_seconds: float = 24 * 3600
    drain_seconds: float = 20

    @property
    def codec_bytes(self) -> int:
        """Of address space for a worker: what decoding a picture of `max_pixels` takes, and some to spare."""
        return self.worker_bytes or 2**30 + 80 * self.max_pixels

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names by which the service may be called; empty: any.

        Without a token only the address protects a service on loopback, and a web page can give a name of
        its own that address (DNS rebinding).
        """
        if self.hosts or self.tokens or self.public:
            return frozenset(self.hosts)
        return frozenset((*LOOPBACK_NAMES, self.host.lower()))


def listen(settings: Settings) -> socket.socket:
    """A socket bound to the host and port, once it is clear that this is safe.

    Raises:
        InputError: the address is not loopback's, and there is neither a token nor the word that it is meant;
            or it can't be bound.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"The host {settings.host!r} is not known ({error}). Check the name.") from error
    # The address that is checked is the one that is bound: a name could lead elsewhere the second time.
    if not ipaddress.ip_address(address[0]).is_loopback and not settings.tokens and not settings.public:
        raise InputError(
            f"{settings.host} can be reached from other machines, and no token is set; expected a token, or "
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
            f"{settings.host} port {settings.port} can't be listened on: "
            f"{getattr(error, 'strerror', None) or error}. Choose another --port."
        ) from error
    return bound
