"""One PKCS#11 token: load its module, find it, log in, and reconnect after it was away.

Rule: the module is initialised without locking of its own, so one call runs at a time per process; a failed call is
retried once over a new connection, because a session dies with the cable, the cluster node or the service. Every
foreign exception becomes one of ours here. It knows nothing of epochs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from coffer.keys.errors import CofferError, ConfigError, UnavailableError
from coffer.keys.memory.secret import Secret

if TYPE_CHECKING:
    from pkcs11 import Session

__all__ = ["PROCESS_LOCK", "ObjectMissing", "Token"]

_T = TypeVar("_T")
PROCESS_LOCK: Final = threading.RLock()  # C_Initialize(NULL): two threads must not call the module at once


class ObjectMissing(Exception):  # noqa: N818  an answer, not a failure of the token
    """Raised by the function that `Token.run` calls: the token was reached and has no such object."""


class Token:
    """A token, given by module path, label and PIN. `pin` is called at each login. The first `run` opens it."""

    __slots__ = ("_label", "_module", "_pin", "_refused", "_session")

    def __init__(self, module: Path, label: str, pin: Callable[[], Secret]) -> None:
        self._module = module
        self._label = label
        self._pin = pin
        self._session: Session | None = None
        self._refused: Secret | None = None

    def __str__(self) -> str:
        return f'token "{self._label}"'

    def run(self, what: Callable[[Session], _T]) -> _T:
        """Return `what(session)`, retried once over a new connection where it fails or raises ObjectMissing.

        The session is read-write and logged in. Raises ConfigError, UnavailableError, ObjectMissing; a CofferError that
        `what` raises is passed on at once.
        """
        library = _library()
        with PROCESS_LOCK:
            try:
                return what(self._session or self._connect(library, afresh=False))
            except (library.PKCS11Error, ObjectMissing) as error:
                self._session = None
                if _is_final(library, error):
                    raise self._converted(library, error) from error
            try:
                # A token unplugged under an open session looks empty, so an object counts as missing only after the
                # module has been initialised again.
                return what(self._connect(library, afresh=True))
            except library.PKCS11Error as error:
                self._session = None
                raise self._converted(library, error) from error

    def _connect(self, library: Any, *, afresh: bool) -> Session:
        try:
            module = library.lib(str(self._module))
        except library.PKCS11Error as error:
            if "loading" not in str(error):
                raise
            raise ConfigError(
                f"{self._module} is not a PKCS#11 module that can be loaded",
                hint="set [keys.pkcs11] module to the path of the HSM's own library",
            ) from error
        if afresh:
            module.reinitialize()
        tokens = [token for token in module.get_tokens() if token.label == self._label]
        if len(tokens) > 1:
            raise ConfigError(f"there are {len(tokens)} tokens labelled {self._label}", hint="rename all but one")
        if not tokens:
            raise library.NoSuchToken
        self._session = session = self._login(library, tokens[0])
        return session

    def _login(self, library: Any, token: Any) -> Session:
        pin = self._pin()
        if self._refused is not None and self._refused.matches(pin):
            raise library.PinIncorrect
        try:
            session: Session = token.open(rw=True, user_pin=_text(pin))
        except library.UserAlreadyLoggedIn:  # a login counts for the whole process, and another session has logged in
            session = token.open(rw=True)
        except library.PinIncorrect:
            self._refused = pin
            raise
        return session

    def _converted(self, library: Any, error: Exception) -> CofferError:
        name = type(error).__name__
        pin = (library.PinIncorrect, library.PinInvalid, library.PinLenRange)
        if isinstance(error, pin):
            return ConfigError(
                f"{self} refuses the PIN",
                hint="correct the PIN's source, then start again; a refused PIN is not tried twice, since tokens lock",
            )
        if isinstance(error, library.PinLocked | library.PinExpired | library.UserPinNotInitialized):
            return ConfigError(
                f"{self} lets nobody log in ({name})", hint="the token's security officer must set a new user PIN"
            )
        if isinstance(error, library.MechanismInvalid | library.MechanismParamInvalid | library.FunctionNotSupported):
            return ConfigError(
                f"{self} cannot do what is needed ({name})", hint="it needs AES-256 keys and CKM_AES_GCM: docs/keys.md"
            )
        if isinstance(error, library.SessionReadOnly | library.TokenWriteProtected):
            return ConfigError(f"{self} is write protected", hint="remove the protection while an epoch is created")
        if isinstance(error, library.NoSuchToken):
            return UnavailableError(
                f"there is no {self} in any slot of {self._module}",
                hint="connect the HSM, or correct [keys.pkcs11] token; `pkcs11-tool -L` lists the tokens",
            )
        return UnavailableError(
            f"{self} cannot be reached or used now ({name})", hint="check the HSM, its network and its client service"
        )


def _is_final(library: Any, error: Exception) -> bool:
    """Whether a retry would be useless or harmful."""
    final = (library.PinIncorrect, library.PinInvalid, library.PinLenRange, library.PinLocked, library.PinExpired)
    return isinstance(error, (*final, library.MechanismInvalid, library.SessionReadOnly, library.TokenWriteProtected))


def _text(pin: Secret) -> str:
    try:
        return pin.reveal().decode()
    except UnicodeDecodeError:
        raise ConfigError("the token's PIN is not UTF-8 text", hint="correct the PIN's source") from None


def _library() -> Any:
    try:
        import pkcs11
    except ImportError as error:
        raise ConfigError(
            "the pkcs11 provider needs the package python-pkcs11",
            hint=f"{sys.executable} -m pip install 'coffer-dicom[pkcs11]'",
        ) from error
    return pkcs11
