"""Services: what can be said of one, and what is refused before anything runs."""

from typing import Any

import pytest

from ipc import Context, Event, HandlerDefinitionError, InvalidNameError, IpcError, Request, Service


class Fetch(Request[str], type="service.Fetch"):
    id: int


class Remove(Request[None], type="service.Remove", aliases=("service.Delete",)):
    id: int


class Placed(Event, type="service.Placed"):
    number: int


def test_service_has_a_name_and_little_else():
    """All else may be left out; it then answers nothing yet, and shows as its name."""
    service = Service("users")

    assert (service.name, service.version, service.description) == ("users", "0.0.0", "")
    assert (service.handlers, service.event_handlers, service.metadata) == ({}, [], {})
    assert (service.publishes, service.requests) == ((), ())
    assert repr(service) == "<Service 'users' 0.0.0>"


@pytest.mark.parametrize("name", ["users", "Users-2", "user_store", "1", "-", "a" * 100])
def test_name_is_letters_digits_dashes_and_underscores(name: str):
    """As every NATS service's is (ADR-32)."""
    assert Service(name).name == name


@pytest.mark.parametrize(
    "name", ["", "a.b", "a b", "*", ">", "a=b", "größe", "a\n", "\u0661", "a" * 101]
)
def test_other_names_are_refused(name: str):
    """A name is part of the subjects on which the service is discovered."""
    with pytest.raises(InvalidNameError, match="invalid service") as caught:
        Service(name)

    assert (caught.value.kind, caught.value.name) == ("service", name)


def test_refused_name_is_told_what_would_do():
    """And nothing that would be refused again: unlike a bus's, a service's name has no '='."""
    with pytest.raises(InvalidNameError) as caught:
        Service("a=b")

    assert "'='" not in str(caught.value).removeprefix("invalid service 'a=b'")


@pytest.mark.parametrize(
    "version",
    [
        "0.0.0",
        "1.2.3",
        "10.20.30",
        "1.0.0-alpha.1",
        "1.0.0-0A.is.legal",
        "1.2.3+build.01",
        "1.0.0-rc.1+5",
    ],
)
def test_version_is_semantic(version: str):
    """As every NATS service's is (ADR-32); examples of semver.org."""
    assert Service("users", version=version).version == version


@pytest.mark.parametrize(
    "version",
    [
        "",
        "1",
        "1.2",
        "v1.2.3",
        "1.2.3.4",
        "01.2.3",
        "1.2.03",
        "1.2.3-",
        "1.2.3-01",
        "1.2.3+",
        "1.2.3\n",
        "latest",
    ],
)
def test_other_versions_are_refused(version: str):
    """With an example of one that is taken."""
    with pytest.raises(ValueError, match=r"service 'users': .* such as 1\.2\.0"):
        Service("users", version=version)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"concurrency": -1}, {"max_waiting": -1}])
def test_numbers_have_a_range(options: dict[str, Any]):
    """One request at a time is the least; that none may wait is possible."""
    with pytest.raises(ValueError, match="service 'users': concurrency is at least 1"):
        Service("users", **options)

    assert Service("users", concurrency=1, max_waiting=0).max_waiting == 0


def test_types_that_it_uses_are_known_by_their_names():
    """What it publishes and whom it asks, for its permissions and documents."""
    service = Service("users", publishes=[Placed], requests=[Fetch, Remove])

    assert [kind.name for kind in service.publishes] == ["service.Placed"]
    assert [kind.name for kind in service.requests] == ["service.Fetch", "service.Remove"]


@pytest.mark.parametrize(
    "options",
    [{"publishes": [int]}, {"requests": [str]}, {"publishes": [Fetch]}, {"requests": [Placed]}],
)
def test_types_of_another_kind_are_refused(options: dict[str, Any]):
    """An event is published, a request is asked; anything else has no subject at all."""
    with pytest.raises(TypeError):
        Service("users", **options)


def test_metadata_is_its_own():
    """Changing afterwards what was given changes nothing."""
    given = {"team": "accounts"}
    service = Service("users", metadata=given)

    given["team"] = "none"

    assert service.metadata == {"team": "accounts"}


# -- handlers -----------------------------------------------------------------------------


def test_handler_is_found_by_the_type_of_its_request():
    """The function stays what it is, so that it can be called and tested as one."""
    service = Service("users")

    async def fetch(request: Fetch) -> str:
        return ""

    async def remove(request: Remove, ctx: Context) -> None: ...

    assert service.handle(fetch) is fetch
    assert service.handle(remove) is remove
    assert list(service.handlers) == ["service.Fetch", "service.Remove"]


def test_method_can_be_a_handler():
    """Of an object that has what it needs."""

    class Users:
        async def fetch(self, request: Fetch) -> str:
            return ""

    service = Service("users")
    service.handle(Users().fetch)

    assert service.handlers["service.Fetch"].called.name.endswith("Users.fetch")


def test_second_handler_of_a_request_is_refused():
    """Even the same function again; the first one stays."""
    service = Service("users")

    @service.handle
    async def fetch(request: Fetch) -> str:
        return ""

    with pytest.raises(
        HandlerDefinitionError, match=r"service\.Fetch is answered by .*fetch.* already"
    ):
        service.handle(fetch)
    assert service.handlers["service.Fetch"].called.function is fetch


def test_handler_that_returns_something_else_is_refused():
    """Than the request promises; nothing of it is kept."""
    service = Service("users")

    with pytest.raises(HandlerDefinitionError, match=r"returns int, but service\.Fetch") as caught:

        @service.handle
        async def fetch(request: Fetch) -> int:
            return 7

    assert isinstance(caught.value, IpcError)
    assert service.handlers == {}


def test_services_have_handlers_of_their_own():
    """Two may answer the same type, with the same function."""

    async def fetch(request: Fetch) -> str:
        return ""

    one, two = Service("one"), Service("two")
    one.handle(fetch)
    two.handle(fetch)

    assert list(one.handlers) == list(two.handlers) == ["service.Fetch"]


def test_event_handlers_are_kept_in_order():
    """They begin when the service is served."""
    service = Service("users")

    @service.on(Placed)
    async def count(event: Placed) -> None: ...

    @service.on(Placed, durable="users")
    async def store(event: Placed) -> None: ...

    assert [handler.called.function for handler in service.event_handlers] == [count, store]
    assert [handler.options.durable for handler in service.event_handlers] == [None, "users"]
