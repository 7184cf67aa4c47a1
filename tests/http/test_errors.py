import pytest

from icehouse import errors
from icehouse.errors import Corrupt, IcehouseError, InvalidFormat, OverQuota, RateLimited, Unauthenticated, Unavailable
from icehouse.http.errors import STATUSES, make_problem
from icehouse.http.streaming import ClientLeft


def raised_classes() -> list[type[IcehouseError]]:
    """The leaves of the tree of errors: what is raised."""
    known = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, IcehouseError)]
    return [kind for kind in known if not kind.__subclasses__()]


@pytest.mark.parametrize("kind", raised_classes())
def test_every_error_that_is_raised_has_a_status(kind: type[IcehouseError]) -> None:
    assert kind in STATUSES


def test_what_a_client_caused_is_told_in_its_words() -> None:
    problem, headers = make_problem(InvalidFormat("line 4: NarSize '12k' is not a number"), "id-1")
    assert (problem.status, problem.detail, problem.request_id) == (
        400,
        "line 4: NarSize '12k' is not a number",
        "id-1",
    )
    assert headers == {}


@pytest.mark.parametrize("error", [Corrupt("/data/packs/1/ab"), KeyError("secret"), RuntimeError("/data")])
def test_our_own_faults_tell_nothing_but_the_id(error: Exception) -> None:
    problem, _ = make_problem(error, "id-2")
    assert problem.status == 500
    assert str(error) not in problem.detail
    assert problem.request_id == "id-2"


def test_a_storage_that_does_not_answer_may_be_asked_again_and_keeps_its_places_to_itself() -> None:
    problem, headers = make_problem(Unavailable("/data/icehouse.db is locked"), "")
    assert (problem.status, "/data" in problem.detail) == (503, False)
    assert int(headers["retry-after"]) > 0


def test_a_full_disk_is_told() -> None:
    assert make_problem(OverQuota("the disk is full"), "")[0].status == 507


def test_a_rate_limit_says_when_to_come_again() -> None:
    assert make_problem(RateLimited("busy", retry_after_seconds=7), "")[1] == {"retry-after": "7"}


def test_missing_credentials_are_asked_for() -> None:
    assert make_problem(Unauthenticated("a token"), "")[1] == {"www-authenticate": 'Basic realm="icehouse"'}


def test_a_body_that_broke_off_is_the_clients_fault() -> None:
    assert make_problem(ClientLeft(), "")[0].status == 400
