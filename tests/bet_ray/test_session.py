"""A private Ray keeps to itself."""

from contextlib import nullcontext
from typing import Any

import psutil
import pytest
import ray

from bet.errors import FailedRunError
from bet_ray.session import session


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999", "nowhere.invalid:6379"])
def test_an_address_where_no_ray_answers_is_one_line_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(FailedRunError, match=f"RAY_ADDRESS={address}: no Ray answers there"), session():
        pass


@pytest.mark.parametrize(("failures", "starts"), [(0, 1), (1, 2), (2, 2)])
def test_a_private_ray_that_does_not_start_in_time_is_started_once_more(
    failures: int, starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    def init(**where: Any) -> None:
        begun.append(where)
        if len(begun) <= failures:
            raise TimeoutError("timed out after 30 seconds")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    refused = pytest.raises(FailedRunError, match="cannot be had: timed out after 30 seconds")
    with refused if failures == starts else nullcontext(), session():
        pass
    assert len(begun) == starts


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_private_ray_listens_on_loopback_alone() -> None:
    ray.get(ray.remote(lambda: 1).remote())
    listening = {
        connection.laddr.ip
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_private_ray_has_no_process_that_nobody_needs() -> None:
    started = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert any("gcs_server" in command for command in started)
    idlers = ("dashboard/dashboard.py", "log_monitor.py", "autoscaler/_private/monitor.py")
    assert [command for command in started if any(name in command for name in idlers)] == []


@pytest.mark.slow
def test_a_session_inside_a_session_is_the_same_and_leaves_it_running(ray_session: int) -> None:
    with session(1) as cpus:
        assert cpus == ray_session
    assert ray.is_initialized()
