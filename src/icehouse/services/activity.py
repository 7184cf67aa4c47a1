"""What a server does at this moment, for who administers it or some of its caches."""

from __future__ import annotations

from collections.abc import Callable

from icehouse.api.activity import ActivityView, MaintenanceView, VerificationView
from icehouse.db.engine import Database
from icehouse.db.verification import PassState, load_pass
from icehouse.errors import Denied, Unauthenticated
from icehouse.rules.access import Grant
from icehouse.services.collections import Collections
from icehouse.services.live_pushes import LivePushes
from icehouse.services.maintenance import Maintenance


class Activity:
    """Tells what is under way. Of several processes that share a database, each knows its own pushes and turns."""

    def __init__(
        self,
        database: Database,
        pushes: LivePushes,
        maintenance: Maintenance,
        collections: Collections,
        clock: Callable[[], int],
    ) -> None:
        """*clock* gives seconds since the epoch."""
        self._database = database
        self.pushes = pushes
        self._maintenance = maintenance
        self._collections = collections
        self._clock = clock

    async def show(self, grant: Grant | None) -> ActivityView:
        """What is under way, of that what *grant* may know.

        Raises:
            Unauthenticated: there are no credentials.
            Denied: the token administers no cache.
        """
        mine = check_may_see_activity(grant)
        pushes = [push for push in self.pushes.list_pushes() if mine.administers(push.cache)]
        maintenance = await self._show_maintenance() if mine.administers("*") else None
        return ActivityView(now=self._clock(), pushes=pushes, maintenance=maintenance)

    async def _show_maintenance(self) -> MaintenanceView:
        state = self._maintenance.state
        verification = await self._database.read(load_pass)
        return MaintenanceView(
            doing=state.doing,
            began_at=state.began_at,
            ended_at=state.ended_at,
            error=state.error,
            next_at=state.next_at,
            last_collection=await self._collections.find_last(),
            verification=None if verification is None else _verification_view(verification),
        )


def check_may_see_activity(grant: Grant | None) -> Grant:
    """*grant*, if its holder administers some cache.

    Raises:
        Unauthenticated: there are no credentials.
        Denied: the token administers no cache.
    """
    if grant is None:
        raise Unauthenticated("what the server does is for who administers caches")
    if not grant.admin_patterns:
        raise Denied("what the server does is for who has the permission admin, which this token lacks")
    return grant


def _verification_view(state: PassState) -> VerificationView:
    return VerificationView(
        is_between=state.is_between,
        began_at=state.began_at,
        read_bytes=state.read_bytes,
        findings=state.findings,
        completed_at=state.completed_at,
        last_findings=state.last_findings,
    )
