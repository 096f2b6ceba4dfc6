"""Seals: proof that a file was written by this installation, made with a key that never leaves its user directory.

A policy, a pipeline and a history run code as they are unpickled. Hashes alone show that a file is damaged; whoever
plants one writes the hash as well. A seal takes the key, so what carries none of ours is not unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

KEY_NAME = "mtfscalper_key"
_KEY_BYTES = 32
# Stands between a pickle and its seal. Unpickling ends before it, so that stock FreqAI reads such a file too.
_TRAILER = b"\nmtfscalper-seal:"


class SealError(OSError):
    """The key cannot be read or made. Names what, where, accepted, remedy."""


class Seals:
    """Makes and checks the seals of one user directory. Can be pickled: the key stays behind."""

    def __init__(self, user_dir: Path, trusted: Collection[str] = ()) -> None:
        """
        :param user_dir: freqtrade's user directory, where the key lies from the first seal on
        :param trusted: digests of what the user admits without a seal (``freqai.rl_config.trust_models``)
        """
        self.key_path = Path(user_dir) / KEY_NAME
        self.trusted = frozenset(trusted)
        self._known_key: bytes | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"key_path": self.key_path, "trusted": self.trusted, "_known_key": None}

    def seal(self, purpose: str, content: bytes) -> str:
        """The seal of some bytes; the key is made if there is none.

        :param purpose: what the bytes are: a seal for one purpose holds for no other
        :raises SealError: if there can be no key
        """
        key = self._key() or self._make_key()
        return hmac.new(key, purpose.encode() + b"\0" + content, hashlib.sha256).hexdigest()

    def holds(self, purpose: str, content: bytes, seal: object) -> bool:
        """Whether a seal was made here, for these bytes. Writes nothing: without a key no seal holds.

        :raises SealError: if there is a key that cannot be read
        """
        if not isinstance(seal, str) or self._key() is None:
            return False
        return hmac.compare_digest(self.seal(purpose, content).encode(), seal.encode())

    def seal_value(self, purpose: str, value: Any) -> str:
        """The seal of a value that JSON can hold, whatever the order of its keys."""
        return self.seal(purpose, _canonical(value))

    def value_holds(self, purpose: str, value: Any, seal: object) -> bool:
        """Whether a seal was made here, for this value."""
        return self.holds(purpose, _canonical(value), seal)

    def append(self, purpose: str, content: bytes) -> bytes:
        """A pickle with its seal behind it."""
        return content + _TRAILER + self.seal(purpose, content).encode()

    def content(self, purpose: str, sealed: bytes) -> bytes | None:
        """The pickle that :meth:`append` sealed, None if this user directory did not."""
        content, found, seal = sealed.rpartition(_TRAILER)
        return content if found and self.holds(purpose, content, seal.decode(errors="replace")) else None

    def _key(self) -> bytes | None:
        """The key, None where there is none of the right size."""
        if self._known_key is None:
            try:
                key = self.key_path.read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise SealError(
                    f"{self.key_path} cannot be read ({error.strerror}); accepted: a file that the user who runs "
                    "freqtrade can read; remedy: give it to that user, or move it away: what it sealed is then made "
                    "anew"
                ) from error
            if len(key) != _KEY_BYTES:
                return None
            self._known_key = key
        return self._known_key

    def _make_key(self) -> bytes:
        """Make the key. Of several processes that do so at once, all get the first one's."""
        path = self.key_path
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.tmp")
        try:
            # By its size: another process may have made a whole one since this one looked for it.
            if path.exists() and path.stat().st_size != _KEY_BYTES:
                logger.warning("%s is damaged, and lies aside as %s.damaged.", path, path.name)
                path.replace(path.with_name(f"{path.name}.damaged"))
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            _take_name(temporary, path)
        except OSError as error:
            raise SealError(
                f"{path} cannot be written ({error.strerror}), so that nothing can be sealed; accepted: a user "
                "directory that can be written to; remedy: free space or change its rights"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        logger.warning(
            "Made a key in %s. Files that another key sealed, or none, are made anew; keep it with your backups.", path
        )
        key = self._key()
        assert key is not None, path
        return key


def without_seal(sealed: bytes) -> bytes:
    """A pickle without the seal behind it, whoever made that."""
    content, found, _ = sealed.rpartition(_TRAILER)
    return content if found else sealed


def _take_name(temporary: Path, path: Path) -> None:
    """Give a file its name, unless another process has given it to one of its own."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:
        # A filesystem without hard links.
        if not path.exists():
            temporary.replace(path)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
