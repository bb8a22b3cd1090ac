#!/usr/bin/env python3
"""A cluster in a box: N hosts on one Linux machine, made of namespaces, to try `deepspeed --hostfile` and its failures.

Each host has its own network, process ids, hostname, IPC, mounts, /etc/hosts, /dev/shm and sshd with its own host key; the
switch between them lives in a namespace too. The machine itself gets no address, no interface and no process that is not
ended by `down`. Files are shared (all hosts see this machine's disk), as on a cluster with one file system. The standard
library is enough, so that it runs before anything is installed.

    sudo python3 tests/cluster/box.py up 3            node0, node1, node2; one slot each
    sudo python3 tests/cluster/box.py exec node0 bash be on node0; `ssh node1` works from there
    sudo python3 tests/cluster/box.py hostfile        the path of a hostfile for deepspeed
    … crash NODE · boot NODE                          reset (all its processes die at once, connections end) · start
    … unplug NODE · plug NODE                         take its cable out (silence, no reset) · put it back
    … partition A,B C,D · heal                        the two sides hear nothing of each other · they do again
    … link NODE rate=100mbit [delay=5ms] [loss=1%]    a slower link (delay, loss: kernels with netem); link NODE: as made
    … firewall NODE 1024-65535 · firewall NODE        drop what comes in to these TCP ports · drop nothing
    … processes [NODE]                                what runs on the hosts, sshd left out
    sudo python3 tests/cluster/box.py down

Needs root and `apt-get install iproute2 openssh-server pdsh util-linux nftables`. BOX=name gives a second box beside the first.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOLS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}
SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # where sshd, ip and nft are, also under sudo
NETWORK = "10.99.7"
NOBODY = "02:00:00:00:00:01"  # a hardware address that nobody on the switch has
BOOT_SECONDS = 10
SSH_CLIENT = """Host node*
    IdentityFile {state}/key
    UserKnownHostsFile {state}/known_hosts
    StrictHostKeyChecking yes
    LogLevel ERROR
"""
SSH_SERVER = """Port 22
ListenAddress {address}
HostKey {home}/host_key
AuthorizedKeysFile {home}/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
MaxStartups 100
PidFile none
"""
INIT = """set -e
hostname {node}
mount --make-rprivate /
for folder in /dev/shm /run/lock /run/sshd /etc/ssh/ssh_config.d; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done
chmod 0755 /run/sshd
mount --bind {state}/hosts /etc/hosts
cp {state}/ssh_client.conf /etc/ssh/ssh_config.d/box.conf
exec {sshd} -D -E {home}/sshd.log -f {home}/sshd.conf
"""


class Box:
    """The hosts of one box. What there is, is read from the state folder and /run/netns; so any process may use it."""

    def __init__(self, name: str = "box") -> None:
        self.name = name
        self.state = Path(tempfile.gettempdir()) / f"xlm-align-{name}"
        self.switch = f"{name}-switch"
        self.hostfile = self.state / "hostfile"

    @property
    def nodes(self) -> list[str]:
        return sorted((path.name for path in self.state.glob("node*")), key=lambda node: int(node[4:]))

    def address(self, node: str) -> str:
        return f"{NETWORK}.{10 + int(node[4:])}"

    def up(self, count: int, slots: int = 1) -> None:
        """Make the switch and `count` hosts, and wait until each answers ssh from node0."""
        missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool, path=SYSTEM_PATH)})
        if os.geteuid() != 0 or missing:
            needs = "root (sudo)" if os.geteuid() != 0 else f"apt-get install {' '.join(missing)}"
            raise ValueError(f"a cluster in a box needs {needs}")
        if self.state.exists():
            raise ValueError(f"{self.state}: there is a box of this name; take it `down`, or set BOX to another name")
        names = [f"node{i}" for i in range(count)]
        for node in names:
            (self.state / node).mkdir(parents=True)
        self.state.chmod(0o700)  # private keys
        self._write_shared_files(names)
        self.hostfile.write_text("".join(f"{node} slots={slots}\n" for node in names))
        _run("ip", "netns", "add", self.switch)
        _run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self.switch, "link", "set", "br0", "up")
        for node in names:
            self.boot(node)
        for node in names:
            self._wait_for_ssh(node)

    def boot(self, node: str) -> None:
        """Power a host on: its network, then an init in namespaces of its own that becomes sshd."""
        home, namespace, port = self.state / node, self._namespace(node), f"p{node[4:]}"
        if self._pid(node):
            raise ValueError(f"{node} is up")
        self._unplumb(node)
        _run("ip", "netns", "add", namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _run("ip", "-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        # The same hardware address after each boot, as a real one has: the other hosts remember it for minutes.
        _run("ip", "-n", namespace, "link", "set", "eth0", "address", f"02:00:00:00:07:{10 + int(node[4:]):02x}")
        _run("ip", "-n", self.switch, "link", "set", port, "master", "br0", "up")
        _run("ip", "-n", namespace, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
        _run("ip", "-n", namespace, "link", "set", "eth0", "up")
        own = ["--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (home / "init.log").open("wb") as log:
            outer = subprocess.Popen(
                ["ip", "netns", "exec", namespace, "unshare", *own, "bash", str(home / "init.sh")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), start_new_session=True,
            )  # fmt: skip
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        deadline = time.monotonic() + BOOT_SECONDS
        while not (pids := children.read_text().split() if outer.poll() is None else []):
            if time.monotonic() > deadline or outer.poll() is not None:
                raise ValueError(f"{node} did not start: {(home / 'init.log').read_text().strip()}")
            time.sleep(0.01)
        (home / "pid").write_text(pids[0])

    def crash(self, node: str) -> None:
        """Reset a host: with its first process, the kernel ends all others in it, and their connections."""
        os.kill(self._must_be_up(node), signal.SIGKILL)
        deadline = time.monotonic() + BOOT_SECONDS
        while self._pid(node) and time.monotonic() < deadline:
            time.sleep(0.01)

    def unplug(self, node: str) -> None:
        _run("ip", "-n", self.switch, "link", "set", f"p{node[4:]}", "down")

    def plug(self, node: str) -> None:
        _run("ip", "-n", self.switch, "link", "set", f"p{node[4:]}", "up")

    def partition(self, one: list[str], other: list[str]) -> None:
        """What one side sends to the other goes to a hardware address that nobody has: silence on both, and no error."""
        for here, there in [(a, b) for a in one for b in other] + [(b, a) for a in one for b in other]:
            to = [self.address(there), "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"]
            _run("ip", "-n", self._namespace(here), "neigh", "replace", *to)

    def heal(self) -> None:
        for node in self.nodes:
            _run("ip", "-n", self._namespace(node), "neigh", "flush", "dev", "eth0", "nud", "permanent")

    def link(self, node: str, rate: str = "", delay: str = "", loss: str = "") -> None:
        """Throttle what the host sends and what it is sent; no argument: as fast as the machine is."""
        ends = ((self._namespace(node), "eth0"), (self.switch, f"p{node[4:]}"))
        for namespace, device in ends:
            _run("tc", "-n", namespace, "qdisc", "del", "dev", device, "root", check=False)
            if delay or loss:
                wanted = {"delay": delay, "loss": loss, "rate": rate}
                shape = [word for name, value in wanted.items() if value for word in (name, value)]
                if _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "netem", *shape, check=False):
                    raise ValueError("this machine's kernel has no netem: only rate= can be set")
            elif rate:
                bucket = ["tbf", "rate", rate, "burst", "256kb", "latency", "100ms"]
                _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", *bucket)

    def firewall(self, node: str, ports: str = "") -> None:
        """Drop what comes in from other hosts to these TCP ports (`1024-65535`); no ports: drop nothing."""
        within = ["ip", "netns", "exec", self._namespace(node), "nft"]
        _run(*within, "delete", "table", "inet", "box", check=False)
        if ports:
            drop = f"iifname eth0 tcp dport {ports} tcp flags syn drop"
            _run(*within, f"table inet box {{\n chain in {{\n type filter hook input priority 0;\n {drop}\n }}\n}}")

    def command(self, node: str, *words: object, folder: Path | None = None) -> list[str]:
        """The command line that runs `words` on a host, in a folder; by default in this one."""
        enter = ["nsenter", "--target", str(self._must_be_up(node)), "--all", f"--wd={folder or Path.cwd()}"]
        return [*enter, *map(str, words)]

    def processes(self, node: str) -> dict[int, str]:
        """Process id (of this machine) → command line of what runs on a host, init and sshd left out."""
        init = self._pid(node)
        if not init:
            return {}
        inside = os.stat(f"/proc/{init}/ns/pid").st_ino
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "ns" / "pid").stat().st_ino == inside and int(entry.name) != init:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if command and not command.startswith("sshd"):
                        found[int(entry.name)] = command
            except OSError:  # it has ended meanwhile
                continue
        return found

    def down(self) -> None:
        """End everything that `up` and `boot` started and remove what they made; also after a half-finished `up`."""
        for node in self.nodes:
            if pid := self._pid(node):
                os.kill(pid, signal.SIGKILL)
            self._unplumb(node)
        _run("ip", "netns", "delete", self.switch, check=False)
        shutil.rmtree(self.state, ignore_errors=True)

    def _write_shared_files(self, names: list[str]) -> None:
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.state / "key"))
        known, sshd = [], shutil.which("sshd", path=SYSTEM_PATH)
        for node in names:
            home = self.state / node
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "host_key"))
            kind, key = (home / "host_key.pub").read_text().split()[:2]
            known.append(f"{node},{self.address(node)} {kind} {key}\n")
            shutil.copy(self.state / "key.pub", home / "authorized_keys")
            words = {"node": node, "address": self.address(node), "home": home, "state": self.state, "sshd": sshd}
            (home / "sshd.conf").write_text(SSH_SERVER.format(**words))
            (home / "init.sh").write_text(INIT.format(**words))
        (self.state / "known_hosts").write_text("".join(known))
        (self.state / "ssh_client.conf").write_text(SSH_CLIENT.format(state=self.state))
        names_of = "".join(f"{self.address(node)} {node}\n" for node in names)
        (self.state / "hosts").write_text(f"127.0.0.1 localhost\n{names_of}")

    def _wait_for_ssh(self, node: str) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while _run(*self.command(self.nodes[0], "ssh", "-o", "BatchMode=yes", node, "true"), check=False):
            if time.monotonic() > deadline:
                raise ValueError(f"{node} does not answer ssh; see {self.state / node / 'sshd.log'}")
            time.sleep(0.1)

    def _namespace(self, node: str) -> str:
        if node not in self.nodes:
            raise ValueError(
                f"{node}: no such host in this box; it has {', '.join(self.nodes) or 'none (it is not up)'}"
            )
        return f"{self.name}-{node}"

    def _pid(self, node: str) -> int:
        """The host's first process, 0 if it is off; another process that was given its number is not mistaken for it."""
        try:
            pid = int((self.state / node / "pid").read_text())
            same = os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/run/netns/{self.name}-{node}").st_ino
        except (OSError, ValueError):
            return 0
        return pid if same else 0

    def _must_be_up(self, node: str) -> int:
        self._namespace(node)
        if not (pid := self._pid(node)):
            raise ValueError(f"{node} is off; `boot {node}` starts it")
        return pid

    def _unplumb(self, node: str) -> None:
        (self.state / node / "pid").unlink(missing_ok=True)
        _run("ip", "-n", self.switch, "link", "delete", f"p{node[4:]}", check=False)
        _run("ip", "netns", "delete", f"{self.name}-{node}", check=False)


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": SYSTEM_PATH}


def _run(*command: str, check: bool = True) -> int:
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    if check and done.returncode:
        raise ValueError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.returncode


def main(words: list[str]) -> int:
    box = Box(os.environ.get("BOX", "box"))
    verb, rest = (words[0], words[1:]) if words else ("", [])
    try:
        if verb == "up" and len(rest) <= 2 and all(word.isdigit() for word in rest):
            box.up(*map(int, rest or ["2"]))
            print(f"{', '.join(box.nodes)} are up; hostfile: {box.hostfile}")
        elif verb == "exec" and len(rest) > 1:
            os.execvpe("nsenter", box.command(*rest), _environment())
        elif verb in ("crash", "boot", "unplug", "plug") and len(rest) == 1:
            getattr(box, verb)(rest[0])
        elif verb == "partition" and len(rest) == 2:
            box.partition(*(side.split(",") for side in rest))
        elif verb == "link" and rest and all("=" in word for word in rest[1:]):
            box.link(rest[0], **dict(word.split("=", 1) for word in rest[1:]))
        elif verb == "firewall" and len(rest) in (1, 2):
            box.firewall(*rest)
        elif verb == "processes":
            for node in rest or box.nodes:
                print(*(f"{node} {pid} {command}" for pid, command in box.processes(node).items()), sep="\n")
        elif verb == "hostfile":
            print(box.hostfile)
        elif verb in ("heal", "down") and not rest:
            getattr(box, verb)()
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
