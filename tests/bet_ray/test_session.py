"""A private Ray keeps to itself."""

import psutil
import pytest
import ray

from bet_ray.session import session


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
