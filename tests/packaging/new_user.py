"""Follow the pages as a new user does, in a bare Debian, and print how long each task takes.

The commands and files are the blocks of the pages, word for word. An ordinary user types them, one
after the other; a command that fails is typed again, 5 s later, and has failed the third time. The
time of the machine is measured, and that of its processors, which is the one to compare where other
programs keep the machine busy. The time of the hands and eyes is estimated: ``TYPING_S`` for each
command, ``SAVING_S`` for each block of a file, and the prose at ``WORDS_PER_S``.

A block has ``file=NAME`` after its language if it belongs to that file, and ``on=NAME`` if it is
typed on that machine. What stays in the foreground (``hcam up``, ``hcam watch``) keeps its
terminal; the user opens another one.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Thread
from urllib.parse import urlsplit

import psutil

from hcam_devices.host.installation import pip_settings
from hcam_devices.wamp.router import answers

from ..network.namespaces import Host, made_hosts
from ..network.test_namespaces import ADDRESSES

ROOT = Path(__file__).parents[2]
RELEASES = "bookworm", "trixie"
ADDED = "ca-certificates,curl,openssh-server,sudo"
"""What a site's machine has beside Debian's smallest system, for its users."""
TASKS = {
    "run it": (120, "README.md", "Try it"),
    "subscribe from a script": (180, "docs/python.md", "A script in three minutes"),
    "a night": (600, "docs/night.md", ""),
    "add a device": (1200, "docs/adding-a-device.md", ""),
    "install by pip": (600, "docs/install.md", "With pip"),
    "three machines": (1800, "docs/from-one-machine-to-a-site.md", ""),
}
"""How long each task may take, in s, and the page and the section to follow."""
USER = "ada"
CHECKOUT = "hcam_devices"
"""The folder of the clone, in the user's home."""
TYPING_S, SAVING_S, WORDS_PER_S = 5.0, 15.0, 200 / 60
TOO_LONG_S = 900.0
AGAIN_AFTER_S = 5.0

BLOCK = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
STAYS = re.compile(r"\bhcam (up|watch)\b")
JUDGES = re.compile(r"\bhcam (status|alarms|audit|doctor)\b")
"""These end with status 1 if something is wrong with the instrument, as it may be."""
RUNS = re.compile(rb"\x1b\[\?25l|Ctrl-C stops everything|-- ended: \d+\n")
"""What stays in the foreground has hidden the cursor, or says so."""
MARK = re.compile(rb"-- ended: (\d+)\n")


def section(page: str, heading: str) -> str:
    """Return the text of the section of a page that has this heading; of all, if it is empty."""
    text = (ROOT / page).read_text()
    if not heading:
        return text
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@dataclass(frozen=True)
class Block:
    """A block of a page: its text, and the words after its language."""

    file: str
    machine: str
    text: str

    def commands(self) -> list[str]:
        """Return the commands, each of which may have several lines; a file is one command."""
        if self.file:
            folder = Path(self.file).parent
            return [f"mkdir -p {folder} && cat >> {self.file} << 'END'\n{self.text}END"]
        found, lines = [], []
        for line in self.text.splitlines():
            lines.append(line)
            said = subprocess.run(
                ["bash", "-n"], input="\n".join(lines), capture_output=True, text=True, check=False
            )
            if said.returncode == 0 and not line.endswith("\\"):
                found.append("\n".join(lines))
                lines = []
        return [command for command in found if command.strip()]


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks that are commands or files."""
    for _, language, more, body in BLOCK.findall(text):
        words = dict(word.split("=", 1) for word in more.split())
        if language == "sh" or "file" in words:
            yield Block(words.get("file", ""), words.get("on", ""), textwrap.dedent(body))


def call(*command: str | Path) -> None:
    """Run a program of this machine; raise CalledProcessError, with what it said, if it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        done.check_returncode()


def mirror() -> str:
    """Return where this machine's own Debian comes from, as apt is configured."""
    line = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", line, "Created-By: Packages"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    release = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.M)
    assert release
    for place, name, component in map(str.split, said.splitlines()):
        if (name, component) == (release[1], "main"):
            return place
    sys.exit("apt's configuration names no source of this machine's Debian")


def bare_debian(release: str, folder: Path) -> None:
    """Make a bare Debian with the network's settings of this machine, and an ordinary user."""
    call("debootstrap", "--variant=minbase", f"--include={ADDED}", release, folder, mirror())
    for file in ("/etc/resolv.conf", "/etc/hosts"):
        shutil.copy(file, folder / file[1:])
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    network = re.findall(r"^Acquire::(?:https?|Check-|Retries).*;$", dump.stdout, re.MULTILINE)
    apt = [*network, 'APT::Get::Assume-Yes "true";']  # the user would say yes
    write(folder / "etc/apt/apt.conf.d/99-this-machine", *apt)
    settings = pip_settings()
    write(folder / "etc/pip.conf", "[global]", *(f"{k} = {v}" for k, v in settings.items()))
    if certificates := settings.get("cert"):
        inside = folder / certificates.lstrip("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(certificates, inside)
    write(folder / "etc/sudoers.d/user", f"{USER} ALL=(ALL) NOPASSWD: ALL")
    write(folder / "etc/ssh/ssh_config.d/user.conf", "StrictHostKeyChecking accept-new")
    call("chroot", folder, "useradd", "--create-home", "--shell", "/bin/bash", USER)
    keys = "ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519; cp ~/.ssh/id_ed25519.pub"
    call("chroot", folder, "runuser", "-l", USER, "-c", f"{keys} ~/.ssh/authorized_keys")


def write(file: Path, *lines: str) -> None:
    """Write lines into a file."""
    file.write_text("".join(f"{line}\n" for line in lines))


def shared() -> set[Path]:
    """Return the files and folders of this machine that pip's settings name, but certificates.

    An index of packages is beside the files that it leads to.
    """
    found = set()
    for word in " ".join(text for key, text in pip_settings().items() if key != "cert").split():
        place = urlsplit(word)
        path = Path(place.path).parent if place.scheme == "file" else Path(place.path)
        if path.is_absolute() and place.scheme in ("", "file") and path.exists():
            found.add(path)
    return found


class Debian:
    """A copy of a bare Debian, with a clone of the repository in the user's home."""

    def __init__(self, folder: Path, bare: Path) -> None:
        self.root = folder / "root"
        self.inside: tuple[str, ...] = ()
        for name in ("root", "changes", "work"):
            (folder / name).mkdir(parents=True)
        layers = f"lowerdir={bare},upperdir={folder / 'changes'},workdir={folder / 'work'}"
        call("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        call("mount", "-t", "proc", "proc", self.root / "proc")
        call("mount", "--rbind", "/dev", self.root / "dev")
        for place in shared():
            inside = self.root / place.relative_to("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.mkdir(exist_ok=True) if place.is_dir() else inside.touch()
            call("mount", "--bind", "-o", "ro", place, inside)
        home = Path("home", USER)
        call("git", "clone", "-q", "--no-hardlinks", ROOT, self.root / home / CHECKOUT)
        call("chroot", self.root, "chown", "-R", f"{USER}:", f"/{home}/{CHECKOUT}")

    def join(self, host: Host, names: str) -> None:
        """Leave this machine's network for one of several machines, who reach it by ssh."""
        self.inside = host.inside
        (self.root / "run/sshd").mkdir(parents=True, exist_ok=True)
        with (self.root / "etc/hosts").open("a") as file:
            file.write(names)
        call(*self.inside, "chroot", self.root, "/usr/sbin/sshd")


class Terminal:
    """A terminal of the user of a machine."""

    def __init__(self, debian: Debian) -> None:
        self.busy = False
        self._said, self._news = b"", Condition()
        self._bash = subprocess.Popen(
            [*debian.inside, "chroot", debian.root, "runuser", "-l", USER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._bash.stdout
        while said := os.read(self._bash.stdout.fileno(), 65536):
            with self._news:
                self._said += said
                self._news.notify_all()

    def _send(self, text: str) -> None:
        assert self._bash.stdin
        self._bash.stdin.write(text.encode())
        self._bash.stdin.flush()

    def wait(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Wait for what a program says; return None if it does not."""
        with self._news:
            self._news.wait_for(lambda: pattern.search(self._said), TOO_LONG_S)
            return pattern.search(self._said)

    def type(self, command: str) -> tuple[int, str]:
        """Type a command; return its status once it has ended, and what it said."""
        self._said = b""
        self._send(f"{{ {command}\n}} </dev/null\necho -- ended: $?\n")
        return self._ended()

    def leave(self, command: str) -> tuple[int, str]:
        """Type a command that stays in the foreground, in a window; return 0 once it runs.

        What is only to be looked at is ended by its key ``q``. Otherwise the terminal is busy.
        """
        self._said, self.busy = b"", True
        window = shlex.quote(f"stty columns 120 rows 40; {command}")
        self._send(f"script --quiet --return --command {window} /dev/null; echo -- ended: $?\n")
        runs = self.wait(RUNS)
        if "hcam watch" in command:
            time.sleep(TYPING_S)
            return self.press("q")
        return self.press("") if runs is None or MARK.match(runs[0]) else (0, "")

    def press(self, key: str) -> tuple[int, str]:
        """Press the key that ends what is in the foreground; return as ``type``."""
        self._send(key)
        return self._ended()

    def _ended(self) -> tuple[int, str]:
        ended = self.wait(MARK)
        self.busy = False
        if ended is None:
            return -1, f"not ended after {TOO_LONG_S:g} s: {self._said.decode(errors='replace')}"
        return int(ended[1]), self._said[: ended.start()].decode(errors="replace")


@dataclass
class Task:
    """What a user does on one or more machines: how long it takes, and what fails."""

    name: str
    release: str
    machines: dict[str, Debian]
    opening: str = ""
    """What is typed first in each terminal."""
    machine_s: float = 0.0
    processors_s: float = 0.0
    hands_s: float = 0.0
    failed: list[str] = field(default_factory=list)
    terminals: dict[str, list[Terminal]] = field(default_factory=dict)

    @property
    def limit_s(self) -> float:
        """How long it may take."""
        return TASKS[self.name][0]

    def text(self) -> str:
        """Return what it reads."""
        return section(*TASKS[self.name][1:])

    def follow(self, text: str = "", on: str = "", but: str = "$^") -> None:
        """Read its page or a part of it, and do what is said, but not what contains a pattern."""
        text = text or self.text()
        prose = BLOCK.sub("", text)
        self.hands_s += len(prose.split()) / WORDS_PER_S
        for block in blocks(text):
            for command in block.commands():
                if not re.search(but, command):
                    self.do(command, block.machine or on, saving=bool(block.file))

    def do(self, command: str, machine: str, *, saving: bool = False) -> None:
        """Type a command, or save a block of a file, on a machine."""
        terminal = self.terminal(machine)
        self.hands_s += SAVING_S if saving else TYPING_S
        began, before = time.monotonic(), spent()
        if STAYS.search(command):
            status, said = terminal.leave(command)
        else:
            tries = 12 if "hcam status" in command else 1 if JUDGES.search(command) else 3
            for number in range(tries):
                time.sleep(AGAIN_AFTER_S if number else 0)
                status, said = terminal.type(command)
                if not status and "Traceback" not in said:
                    break
        seconds = time.monotonic() - began
        self.machine_s += seconds
        self.processors_s += spent() - before
        print(f"    {seconds:6.1f} s  {command.splitlines()[0]}", flush=True)
        if "Traceback" in said or status not in ((0, 1) if JUDGES.search(command) else (0,)):
            self.failed.append(f"$ {command}\n{said}(status {status})")
            print(self.failed[-1], flush=True)

    def terminal(self, machine: str) -> Terminal:
        """Return a free terminal on a machine; a new one is opened if there is none."""
        opened = self.terminals.setdefault(machine, [])
        if not opened or opened[-1].busy:
            opened.append(Terminal(self.machines[machine]))
            opened[-1].type(self.opening)
        return opened[-1]

    def end(self) -> None:
        """Press Ctrl-C wherever something is in the foreground."""
        for terminal in (one for opened in self.terminals.values() for one in opened if one.busy):
            status, said = terminal.press("\x03")
            if status not in (0, 130):
                self.failed.append(f"Ctrl-C\n{said[-2000:]}(status {status})")


def try_release(release: str, folder: Path) -> Iterator[Task]:
    """Do every task on a Debian of a release; yield each when it is done."""
    bare = folder / "bare"
    folder.mkdir()
    print(f"{release}: a bare Debian", flush=True)
    bare_debian(release, bare)

    one = {"": Debian(folder / "one", bare)}
    first = Task("run it", release, one, f"cd {CHECKOUT}")
    first.follow()
    yield first
    opening = f"cd {CHECKOUT}; {command_with('activate', first.text())}"
    for name in ("subscribe from a script", "a night"):
        task = Task(name, release, one, opening)
        task.follow()
        yield task
    first.end()
    device = Task("add a device", release, one, opening)
    device.follow()
    device.end()
    yield device

    pip = Task("install by pip", release, {"": Debian(folder / "pip", bare)})
    activate = command_with("activate", pip.text())
    pip.opening = f"cd {CHECKOUT}; {activate}"
    pip.follow()
    pip.end()
    yield pip

    addresses = {name: ADDRESSES[name] for name in ("control", "rack", "laptop")}
    machines = {name: Debian(folder / name, bare) for name in addresses}
    three = Task("three machines", release, machines, f"cd {CHECKOUT}")
    install, _, _ = pip.text().partition("\n| extra")
    for name in addresses:
        three.follow(install, name, "hcam up" if name == "control" else "hcam (up|router install)")
    (folder / "hosts").mkdir()
    with made_hosts(folder / "hosts", addresses) as hosts:
        names = "".join(f"{address} {name}\n" for name, address in addresses.items())
        for host in hosts:
            machines[host.home.name].join(host, names)
        three.terminals.clear()
        three.opening = activate
        three.follow(three.text().partition("\n## More machines")[0], "control")
        three.end()
        yield three


def spent() -> float:
    """Return the processor time of all processes that this one sees, which are its own, in s."""
    # those that end while this looks are left out
    return sum(sum(one.info["cpu_times"][:4]) for one in psutil.process_iter(["cpu_times"]))


def command_with(word: str, text: str) -> str:
    """Return the command of a text that has a word."""
    return next(c for block in blocks(text) for c in block.commands() if word in c)


def main(folder: str, *releases: str) -> None:
    """Print the table; exit with status 1 if a step failed or a task took too long.

    The mounts of this process must be its own: a folder of other files is mounted in the given one.
    """
    if answers(8080):
        sys.exit("port 8080 of this machine is taken: end the router that runs here")
    tasks: list[Task] = []
    for release in releases or RELEASES:
        tasks += try_release(release, Path(folder, release))
    print(f"{'task':24} {'Debian':9} machine  (CPU)  hands    sum  limit  failed")
    for task in tasks:
        total = task.machine_s + task.hands_s
        print(
            f"{task.name:24} {task.release:9} {task.machine_s:5.0f} s {task.processors_s:5.0f}s "
            f"{task.hands_s:4.0f} s {total:4.0f} s {task.limit_s:4} s  {len(task.failed)}"
        )
    for task in tasks:
        for step in task.failed:
            print(f"\n{task.name}, {task.release}:\n{step}")
    sys.exit(any(t.failed or t.machine_s + t.hands_s > t.limit_s for t in tasks))


if __name__ == "__main__":
    main(*sys.argv[1:])
