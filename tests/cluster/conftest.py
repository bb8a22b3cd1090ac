"""What the tests on several hosts share: one box of three hosts with a tiny corpus."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cluster_kit import Cluster, box_module, make_corpus

HOSTS = 3


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three hosts and a corpus that all of them see; every test leaves the hosts as it found them."""
    tools = {"ip": "iproute2", "sshd": "openssh-server", "pdsh": "pdsh", "nft": "nftables", "nsenter": "util-linux"}
    missing = [package for tool, package in tools.items() if not shutil.which(tool, path=box_module.SYSTEM_PATH)]
    if os.geteuid() != 0 or missing:
        pytest.skip("needs root" if os.geteuid() != 0 else f"apt-get install {' '.join(missing)}")
    folder = tmp_path_factory.mktemp("cluster")
    config = make_corpus(folder)
    box = box_module.Box(f"test{os.getpid()}")
    try:
        try:
            box.up(HOSTS)
        except ValueError as error:  # root in a container that may not make namespaces
            pytest.skip(f"no cluster in a box here: {error}")
        yield Cluster(box, folder, config)
    finally:
        box.down()
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert box.name not in namespaces
