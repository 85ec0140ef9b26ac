"""`peergram run` as users do it: unmodified programs in processes of their own, which find each other by name on this machine."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

import pytest

from peergram import UsageError
from peergram.adapters.run_program import replaced_sockets, run_program
from peergram.adapters.socket_shim import PeerSocket
from tests.cli.commands import Running, free_port, run_command, running, unique_name

from .networks import WAIT_S, Town

PROGRAMS = Path(__file__).parent / "programs"
SERVER, CLIENT = str(PROGRAMS / "echo_server.py"), str(PROGRAMS / "echo_client.py")


def serving(server: Running) -> None:
    server.wait_line("serving")


def test_two_programs_talk_through_mapped_addresses_names_and_a_fake_one() -> None:
    bob, port = unique_name("bob"), str(free_port())
    with running("run", "--as", bob, "--accept", "--", "python", SERVER, port, "3") as server:
        serving(server)
        places = [f"--map=10.0.0.2={bob}", f"--map=10.0.0.3:{port}={bob}", f"--map=game.example.org:{port}={bob}"]
        hosts = ["10.0.0.2", "10.0.0.3", "game.example.org"]
        done = run_command("run", "--as", unique_name("alice"), *places, "--", CLIENT, *(f"{host}:{port}" for host in hosts))
        assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
        answers = done.stdout.splitlines()
        assert [answer.split()[:2] for answer in answers] == [["b'HELLO", f"{number}'"] for number in range(3)]
        assert server.wait_end() == 0
        assert server.output.count("from ('169.254.") == 3


def test_addresses_that_stand_for_nobody_are_reached_as_ever() -> None:
    port = str(free_port())
    with running("run", "--map", "10.0.0.2:1=somebody", "--", SERVER, port, "1") as server:
        serving(server)
        done = run_command("run", "--map", "10.0.0.2:1=somebody", "--", CLIENT, f"127.0.0.1:{port}")
        assert done.stdout == f"b'HELLO 0' ('127.0.0.1', {port})\n"
        assert server.wait_end() == 0


def test_who_is_not_mapped_is_not_let_in_without_accept(town: Town) -> None:
    private = town.network("private", {"10.0.0.1": "friend"}, accept="mapped", ports=True)
    found: list[bytes] = []
    with replaced_sockets(private), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(WAIT_S)
        port = sock.getsockname()[1]
        for name in ("stranger", "friend"):
            theirs = town.network(name, {"10.0.0.9": "private"}, ports=True)
            with replaced_sockets(theirs), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(name.encode(), ("10.0.0.9", port))
        found.append(sock.recv(100))
    assert found == [b"friend"]


def test_only_datagram_sockets_are_replaced_and_only_for_the_program(town: Town) -> None:
    real = socket.socket
    with replaced_sockets(town.network("alice", ports=True)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, socket.socket() as stream:
            assert isinstance(datagram, PeerSocket)
            assert type(stream) is real
            assert isinstance(stream, socket.socket)
            assert isinstance(datagram, socket.socket)
            assert issubclass(real, socket.socket)
            assert datagram.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM

        class Own(socket.socket):
            pass

        with Own(socket.AF_INET, socket.SOCK_DGRAM) as own:
            assert not isinstance(own, PeerSocket)
        ours, theirs = socket.socketpair()
        ours.close()
        theirs.close()
    assert socket.socket is real


def test_one_socket_talks_to_peers_and_to_others_and_its_port_is_one(town: Town) -> None:
    bob = town.network("bob", ports=True)
    with replaced_sockets(bob):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    alice = town.network("alice", {"10.0.0.2": "bob"}, ports=True)
    with replaced_sockets(alice), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, server, plain:
        for sock in (server, plain, client):
            sock.settimeout(WAIT_S)
        server.bind(("127.0.0.1", 0))
        plain.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        client.sendto(b"by name", ("10.0.0.2", port))
        payload, from_alice = server.recvfrom(100)
        assert (payload, from_alice[1]) == (b"by name", client.getsockname()[1])
        client.sendto(b"by address", plain.getsockname())
        payload, address = plain.recvfrom(100)
        assert (payload, address) == (b"by address", ("127.0.0.1", client.getsockname()[1]))
        plain.sendto(b"answer", address)
        assert client.recvfrom(100) == (b"answer", plain.getsockname())
        server.sendto(b"answer", from_alice)
        assert client.recvfrom(100) == (b"answer", ("10.0.0.2", port))
        client.connect(plain.getsockname())
        assert client.getpeername() == plain.getsockname()
        client.send(b"connected")
        assert plain.recv(100) == b"connected"
        client.connect(("10.0.0.2", port))
        assert client.getpeername() == ("10.0.0.2", port)
        client.send(b"to a peer")
        assert server.recv(100) == b"to a peer"


@pytest.mark.skipif(sys.platform != "linux", reason="where programs ask for it")
def test_a_program_that_asks_at_which_address_datagrams_come_is_told(town: Town) -> None:
    bob = town.network("bob", ports=True)
    with replaced_sockets(bob):
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    alice = town.network("alice", {"10.0.0.2": "bob"}, ports=True)
    with replaced_sockets(alice), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, server:
        server.bind(("::", 0))
        server.settimeout(WAIT_S)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        client.sendto(b"hello", ("10.0.0.2", server.getsockname()[1]))
        payload, ancillary, flags, address = server.recvmsg(100, 100)
        assert (payload, flags, address[0][:15]) == (b"hello", 0, "::ffff:169.254.")
        assert ancillary == [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, bytes(20))]
        with pytest.raises(BlockingIOError):
            server.recvmsg(100, 100, socket.MSG_ERRQUEUE)


def test_a_port_in_use_is_refused_as_ever(town: Town) -> None:
    with replaced_sockets(town.network("alice", ports=True)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
        first.bind(("127.0.0.1", 0))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
            pytest.raises(OSError, match=r"(?i)address already in use"),
        ):
            second.bind(first.getsockname())


def test_the_program_finds_its_arguments_and_folder_and_ends_as_it_wants(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    program = tmp_path / "program.py"
    program.write_text("import sys, beside\nprint(sys.argv, __name__, beside.NAME)\nsys.exit(int(sys.argv[1]))\n")
    done = run_command("run", "--", sys.executable, str(program), "7", "--as", "-v")
    assert (done.returncode, done.stdout) == (7, f"{[str(program), '7', '--as', '-v']} __main__ beside\n")
    done = run_command("run", "python3", "-m", "beside", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


def test_threads_of_a_program_go_on_after_its_main_part_has_ended(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import socket, threading, time\n"
        "def work():\n"
        "    time.sleep(0.2)\n"
        "    print(type(socket.socket(type=socket.SOCK_DGRAM)).__name__)\n"
        "threading.Thread(target=work).start()\n"
    )
    assert run_command("run", str(program)).stdout == "RunSocket\n"


def test_what_a_program_raises_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("raise OSError('a defect of the program')\n")
    done = run_command("run", str(program))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "OSError: a defect of the program" in done.stderr
    program.write_text("import sys; sys.exit('that is all')\n")
    done = run_command("run", str(program))
    assert (done.returncode, "that is all" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name the program to run"),
        (["python", "-m"], "name the program to run"),
        (["python", "-X", "dev", "program.py"], "-X: of Python's own options only -m can be used"),
        (["nowhere.py"], "there is no file 'nowhere.py' to run"),
    ],
)
def test_what_is_no_program_is_refused_with_a_sentence(town: Town, arguments: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run_program(town.network("alice", ports=True), arguments)


def test_a_network_without_ports_cannot_tell_sockets_apart(town: Town) -> None:
    with pytest.raises(UsageError, match="need a network with ports"), replaced_sockets(town.network("alice")):
        pass


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--map", "10.0.0.2:5683"], "write it as 10.0.0.2:5683=bob"),
        (["--map", "10.0.0.2:1=bob", "--map", "10.0.0.2:1=carol"], "10.0.0.2:1 stands for one peer only"),
    ],
)
def test_a_bad_mapping_is_refused_with_a_sentence(options: list[str], sentence: str) -> None:
    done = run_command("run", *options, "--", SERVER)
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())


def test_several_threads_that_send_first_share_one_port(town: Town) -> None:
    bob = town.network("bob", ports=True)
    with replaced_sockets(bob):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    alice = town.network("alice", {"10.0.0.2": "bob"}, ports=True)
    with replaced_sockets(alice), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(WAIT_S)
        where = ("10.0.0.2", server.getsockname()[1])
        threads = [threading.Thread(target=client.sendto, args=(b"x", where)) for _ in range(8)]
        for thread in threads:
            thread.start()
        ports = {server.recvfrom(10)[1][1] for _ in threads}
        for thread in threads:
            thread.join()
        assert ports == {client.getsockname()[1]}
