"""Finds the master that the sentinels agree on (https://redis.io/docs/latest/develop/reference/sentinel-clients/)."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.errors import StoreError
from sidecar.redis.transport import Session, ask
from sidecar.redis.url import Address


class Sentinel:
    """Asks the sentinels in turn, first the one that answered last.

    Weakness: what an old master has counted after a failover, until the sentinels are asked again, is lost.
    """

    def __init__(self, sentinels: Sequence[Address], service: str, session: Session) -> None:
        self._sentinels = list(sentinels)
        self._service = service
        self._session = session

    async def master(self) -> Address:
        """Where the master is. Raises `StoreError`."""
        failures = []
        for sentinel in tuple(self._sentinels):
            try:
                reply = await ask(sentinel, self._session, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            except StoreError as error:
                failures.append(str(error).removeprefix("Redis: "))
                continue
            if reply is None:
                failures.append(f"{sentinel} does not know '{self._service}'")
                continue
            try:
                host, port = reply
                master = Address(host.decode(), int(port))
            except (TypeError, ValueError, AttributeError):
                failures.append(f"{sentinel} is no sentinel")
                continue
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return master
        raise StoreError(f"Redis: no sentinel names the master ({'; '.join(failures)})", transient=True)
