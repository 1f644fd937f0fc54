"""Fifty categories onboarded on several nodes, store and pictures on S3, while a worker and two nodes are lost."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import psutil
import pytest
import yaml

from infra.local.cluster import Cluster, kill_node, local_cluster
from o2n.images import encode_png
from o2n.store import CategoryStore
from tests.helpers import QUICK, checks, stripes, wait_until
from tests.ray_jobs import ray_job, summary

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]

CATEGORIES = 50
# What each poisoned category has instead of two good pictures, and the error that tells so.
POISONED = {
    "p-corrupt": ({"0.png": encode_png(checks(0)), "1.png": b"no picture"}, "bad_picture"),
    "p-cut": ({"0.png": encode_png(checks(0)), "1.png": encode_png(checks(1))[:-400]}, "bad_picture"),
    "p-lonely": ({"0.png": encode_png(checks(0))}, "bad_category"),
    "p-none": ({"notes.txt": b"no pictures here"}, "bad_category"),
    "p-missing": ({}, "bad_category"),
}
# So that fifty take little time.
FAST = QUICK.model_copy(
    update={
        "diffusion": QUICK.diffusion.model_copy(update={"steps": 4}),
        "customisation": QUICK.customisation.model_copy(update={"steps": 2}),
        "pool": QUICK.pool.model_copy(update={"pictures": 4}),
    }
)


@pytest.fixture
def store(bucket: str) -> CategoryStore:
    return CategoryStore(f"s3://{bucket}/store")


@pytest.fixture
def nodes(store: CategoryStore) -> Iterator[Cluster]:
    """A cluster whose store is on S3; its head has one core to give."""
    with local_cluster(cpus=1, store=store.url) as running:
        yield running


@pytest.fixture
def manifest(s3: str, bucket: str, tmp_path: Path) -> Path:
    """Fifty categories of two classes, five of them poisoned, their pictures on S3."""
    client = boto3.client("s3", endpoint_url=s3)
    good = [f"c{number:02}" for number in range(CATEGORIES - len(POISONED))]
    for number, name in enumerate(good):
        draw = (checks, stripes)[number % 2]
        for index in range(2):
            body = encode_png(draw(2 * number + index))
            client.put_object(Bucket=bucket, Key=f"pictures/{name}/train/good/{index}.png", Body=body)
    for name, (files, _) in POISONED.items():
        for file, body in files.items():
            client.put_object(Bucket=bucket, Key=f"pictures/{name}/{file}", Body=body)
    (tmp_path / "fast.json").write_text(FAST.model_dump_json())
    entries = [
        {
            "name": name,
            "references": f"s3://{bucket}/pictures/{name}",
            "object": ("board", "cloth")[number % 2],
            "profile": "fast.json",
        }
        for number, name in enumerate([*good[:20], *POISONED, *good[20:]])
    ]
    file = tmp_path / "categories.yaml"
    file.write_text(yaml.safe_dump(entries, sort_keys=False))
    return file


def follow(job: "subprocess.Popen[str]") -> list[str]:
    """What a job prints, as it comes."""
    lines: list[str] = []
    assert job.stdout is not None
    threading.Thread(target=lambda: lines.extend(job.stdout), daemon=True).start()
    return lines


def workers(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The crew's processes among them."""
    found = []
    for process in processes:
        try:
            if process.cmdline()[0].startswith("ray::CategoryWorker"):
                found.append(process)
        except (psutil.Error, IndexError):
            continue
    return found


def preempt(cluster: Cluster, name: str) -> None:
    """Announce, as a cloud's agent does, that a node will be taken away."""
    done = cluster.run(
        "ray",
        "drain-node",
        f"--address={cluster.address}",
        f"--node-id={cluster.nodes()[name]}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message=a test",
        "--deadline-remaining-seconds=1",
    )
    assert done.returncode == 0, done.stderr


def test_fifty_categories_while_workers_and_nodes_are_lost(
    nodes: Cluster, store: CategoryStore, manifest: Path
) -> None:
    first, second = nodes.add_node("first", 1), nodes.add_node("second", 1)
    job = nodes.popen(*ray_job("jobs/onboard_category.py", "--manifest", str(manifest)))
    lines = follow(job)
    wait_until(lambda: len(store.categories()) >= 1, "first category")
    workers(nodes.processes())[0].kill()
    wait_until(lambda: len(store.categories()) >= 6, "six categories")
    wait_until(lambda: bool(workers(first.children(recursive=True))), "work on the first node")
    kill_node(first)
    wait_until(lambda: len(store.categories()) >= 14, "fourteen categories")
    nodes.add_node("third", 1)
    wait_until(lambda: bool(workers(second.children(recursive=True))), "work on the second node")
    preempt(nodes, "second")
    kill_node(second)
    assert job.wait(600) != 0
    output = "".join(lines)
    print("".join(line for line in lines if line.startswith("[")))
    found = summary(output)
    assert (found["published"], found["failed"]) == (CATEGORIES - len(POISONED), len(POISONED)), output
    assert found["lost_workers"] >= 2
    rows = {row["category"]: row for row in found["categories"]}
    errors = {name: row["error"]["code"] for name, row in rows.items() if "error" in row}
    assert errors == {name: code for name, (_, code) in POISONED.items()}
    good = set(rows) - set(POISONED)
    assert set(store.categories()) == good
    for name in good:
        ref = store.current(name)
        assert rows[name]["version"] == ref.version
        for blob in store.manifest(ref).blobs.values():
            store.get_blob(blob)
    # Pictures of each class were drawn once for all, and the models loaded once by each worker.
    assert sum("prior" not in rows[name].get("resumed", ()) for name in good) <= 2
    loads = sum("loading" in row.get("seconds", ()) for row in rows.values())
    assert loads <= 3 + found["lost_workers"] + 1
    assert len([line for line in output.splitlines() if "running" in line and "waiting" in line]) < 200

    again = nodes.run(*ray_job("jobs/onboard_category.py", "--manifest", str(manifest)))
    found = summary(again.stdout)
    assert again.returncode != 0
    assert (found["published"], found["unchanged"], found["failed"]) == (0, len(good), len(POISONED))
    assert {row["category"]: row["version"] for row in found["categories"] if "version" in row} == {
        name: rows[name]["version"] for name in good
    }
