"""Parts made and searched by Ray's actors, against one process: the same codes, what a death costs, what Ray costs.

    python benchmarks/shards.py --json benchmarks/results/shards.json

Every folder of parts is compared with that of one process: ids, codes, paths and kept embeddings. An actor is killed while it encodes,
and the program that started the actors is, and a process again and again while it saves small parts; what is missing is made by the next run.
`overhead` is two actors' time over one process's, for at least --seconds of work, start-up excluded; the two take turns, best of the turns.
Searches go on while an actor is killed, and every answer is compared; `recovered_s` is the slowest of them. `latency` is what a search of
two actors takes, and what it is made of, measured in turns: the simulation in the tutorial on a billion pictures is built of the pieces and compared with
the whole. --latency measures this alone, and writes it into the file that is there."""
import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from encode import photographs
import sscq.cluster
from sscq.cluster import ClusterIndex, on_cluster, RAY_SETTINGS, SearchingActor
from sscq.core import SSCQ
from sscq.index import Index
from sscq.indexfile import model_fingerprint
from sscq.parts import encode_parts
from sscq.shards import merged_answers, part_answers, save_part, ShardedIndex, write_manifest


@contextlib.contextmanager
def cluster(attempts: int, cores: int = 2):
    "Ray on this machine, started by its own command, again and again where the machine is too busy for Ray's patience of 15 seconds"
    os.environ["RAY_AUTH_MODE"] = "disabled"  # the program and the cluster, which nobody else reaches, have to agree on it
    import ray
    here = ray.util.get_node_ip_address()
    with socket.socket() as sock:
        sock.bind(("", 0))
        port = sock.getsockname()[1]
    command = ["ray", "start", "--head", "--block", f"--port={port}", f"--num-cpus={cores}", "--include-dashboard=false", "--no-monitor",
               "--include-log-monitor=false"]
    for attempt in range(1, attempts + 1):
        start = time.monotonic()
        process = subprocess.Popen(command, env=os.environ | RAY_SETTINGS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        if any("Ray runtime started" in line for line in process.stdout): break
        print(f"attempt {attempt}: Ray did not start", flush=True)
        with contextlib.suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    else: raise RuntimeError(f"Ray did not start in {attempts} attempts")
    threading.Thread(target=lambda: [None for _ in process.stdout], daemon=True).start()
    try: yield f"{here}:{port}", dict(start_s=round(time.monotonic() - start, 1), attempts=attempt)
    finally:
        with contextlib.suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def asked(args, out: Path, **changes) -> argparse.Namespace:
    return argparse.Namespace(**dict(model=str(args.model), images=str(args.photos), out=str(out), keep="half", device="cpu", part_size=args.part_size,
                                     part=None, cluster=args.address, actors=2) | changes)


def same(one: Path, other: Path) -> bool:
    a, b = ShardedIndex(one, verify=True), ShardedIndex(other, verify=True)
    return (torch.equal(a.ids, b.ids) and torch.equal(a.codes, b.codes) and a.paths == b.paths
            and np.array_equal(a.column("embedding"), b.column("embedding")) and len(a) == a.manifest.n)


def made_by_ray(args, out: Path, kill_after: float | None = None, **changes) -> float:
    "Seconds from the moment that both actors are ready"
    begun = [0.]
    def ready(actors):
        begun[0] = time.perf_counter()
        if kill_after is not None:
            import ray
            pid = ray.get(actors[0].pid.remote())
            threading.Timer(kill_after, os.kill, (pid, signal.SIGKILL)).start()
    encode_parts(asked(args, out, **changes), lambda *those: on_cluster(*those, ready=ready))
    return time.perf_counter() - begun[0]


def made_here(args, out: Path, **changes) -> float:
    start = time.perf_counter()
    encode_parts(asked(args, out, cluster=None, **changes))
    return time.perf_counter() - start


def command(args, out: Path, part_size: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "sscq", "encode", str(args.model), str(args.photos), "--out", str(out), "--part-size", str(part_size), *more]


def killed_until_done(args, out: Path, part_size: int, kills: int, *more: str) -> dict:
    "Start, kill as soon as some more parts are there, start again; at last without a kill. What was there may not be written again"
    before, rewritten = {}, 0
    for _ in range(kills):
        process = subprocess.Popen(command(args, out, part_size, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + 300
        while len(list(out.glob("part-*"))) < len(before) + 2 and process.poll() is None and time.monotonic() < end: time.sleep(.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(3)  # until its actors have noticed
        now = {p.name: p.stat().st_mtime_ns for p in out.glob("part-*")}
        rewritten += sum(now[name] != at for name, at in before.items())
        before = now
    subprocess.run(command(args, out, part_size, *more), check=True, stdout=subprocess.DEVNULL)
    rewritten += sum((out / name).stat().st_mtime_ns != at for name, at in before.items())
    return dict(there_at_the_last_kill=len(before), rewritten=rewritten)


def large(folder: Path, n: int, parts: int) -> tuple[Path, torch.Tensor]:
    "Parts of random codes: 64 bits, codewords on a coarse grid, so that distances tie"
    gen = torch.Generator().manual_seed(0)
    books = torch.randint(-3, 4, (16, 16, 4), generator=gen).float()
    file = folder / "picture.jpg"
    file.touch()
    manifest = write_manifest(folder / "large", folder, [file] * n, n // parts, dict(name="", fingerprint=model_fingerprint(books), weights=""), None)
    for part in manifest.parts:
        codes = torch.randint(0, 16, (part.n, 16), dtype=torch.uint8, generator=gen)
        save_part(manifest, part, Index(books), folder, np.arange(part.n), codes, [])
    return folder / "large", torch.randint(-3, 4, (512, 64), generator=gen).float()


def quantiles(seconds: list[float]) -> dict: return {f"p{q}": round(float(np.percentile(seconds, q)), 6) for q in (10, 50, 90, 99)} | dict(n=len(seconds))


def timed(do, n: int) -> list[float]:
    times = []
    for i in range(n):
        start = time.perf_counter()
        do(i)
        times.append(time.perf_counter() - start)
    return times


class ProbedActor(SearchingActor):
    "That says when it began and ended; all on this machine have one clock"
    def stamped(self, *asked):
        start = time.perf_counter()
        return self.answer(*asked), start, time.perf_counter()


class Neighbour:
    "Asks one actor, again and again, as somebody else would"
    def ask(self, seconds: float, actor, *asked) -> int:
        import ray
        end, n = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            ray.get(actor.answer.remote(*asked))
            n += 1
        return n


def pieces(actors, one, queries, rounds: int) -> dict:
    """What a search of two actors is made of, in turns with the search itself; medians and, in `_s`, all times.

    The asker sends one question after the other (`send_s`). A machine has it, searches and answers: `alone_s`, until the answer is in hand, and `beside_s`,
    while the other actor answers somebody else with the same two cores. The asker takes one answer after the other (`take_s`, of one that is there already)
    and merges them (`merge_s`)."""
    ray, clock, asked = actors.ray, time.perf_counter, (10, "squared", False, None, None)
    times = {name: [] for name in "send_s alone_s work_s beside_s take_s merge_s two_actors_s put_s".split()}
    def note(**own):
        for name, seconds in own.items(): times[name].append(round(seconds, 6))
    answers = [part_answers(ShardedIndex(one.manifest.folder, parts=own), queries[:1], *asked) for own in ([1, 3, 5, 7], [2, 4, 6, 8])]
    def call(who: int, f) -> tuple[float, float, float]:
        start = clock()
        ref = actors.actors[who].stamped.remote(who, f, *asked)
        sent = clock()
        _, began, ended = ray.get(ref)
        return sent - start, clock() - sent, ended - began
    neighbour = ray.remote(Neighbour).options(num_cpus=0).remote()
    for i in range(rounds + 20):
        if i == 20:
            for own in times.values(): own.clear()  # what came before were searches to get warm
        q, who = queries[i % 512:i % 512 + 1], i % 2
        f = q.numpy()
        send, alone, work = call(who, f)
        note(send_s=send, alone_s=alone, work_s=work)
        start = clock()
        actors.search(q, k=10)
        note(two_actors_s=clock() - start)
        busy = neighbour.ask.remote(.03, actors.actors[1 - who], 1 - who, f, *asked)
        time.sleep(.008)  # until it is at it
        call(who, f)
        note(beside_s=call(who, f)[1])
        ray.get(busy)
        call(who, f)
        ref = actors.actors[who].answer.remote(who, f, *asked)
        time.sleep(.01)
        start = clock()
        ray.get(ref)
        note(take_s=clock() - start)
        call(who, f)
        start = clock()
        actors._asked(q), actors._considered(None, None), merged_answers(answers, 10, 10)
        note(merge_s=clock() - start)
        start = clock()
        actors._ask(ray.put(f), *asked)
        note(put_s=clock() - start)  # the question in Ray's store, as for many vectors
    return {name.removesuffix("_s"): quantiles(own) for name, own in times.items()} | times


def searched(args, folder: Path) -> dict:
    "Latency of two actors and of its pieces, and what a death costs"
    parts, queries = large(folder, args.items, 8)
    one = ShardedIndex(parts)
    sscq.cluster.SearchingActor = ProbedActor
    actors = ClusterIndex(parts, cluster=args.address, actors=2, replicas=2)
    wanted = one.search(queries, k=10)
    def right(i: int, n: int = 1) -> bool:
        found = actors.search(queries[i:i + n], k=10)
        return torch.equal(found.ids, wanted.ids[i:i + n]) and torch.equal(found.distances, wanted.distances[i:i + n])
    identical = all(right(i) for i in range(50)) and right(0, 512)
    half = ShardedIndex(parts, parts=[1, 3, 5, 7])
    latency = dict(
        items=args.items,
        half_here=quantiles(timed(lambda i: part_answers(half, queries[i:i + 1], 10, "squared", False), 200)),
        empty_call=quantiles(timed(lambda i: actors.ray.get(actors.actors[i % 2].pid.remote()), 300)),
        batch_of_64=quantiles(timed(lambda i: actors.search(queries[64 * (i % 8):64 * (i % 8) + 64], k=10), 40)),
        **pieces(actors, one, queries, args.rounds),
        cores=os.cpu_count(), load=round(os.getloadavg()[0], 1),
    )
    if args.latency:
        actors.close()
        return dict(search_identical=identical, latency=latency)
    slowest, wrong, n = 0., 0, 0
    victim = actors.ray.get(actors.actors[0].pid.remote())
    threading.Timer(1., os.kill, (victim, signal.SIGKILL)).start()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        start = time.perf_counter()
        wrong += not right(n % 500)
        slowest, n = max(slowest, time.perf_counter() - start), n + 1
    again = actors.ray.get(actors.actors[0].pid.remote(), timeout=60)
    actors.close()
    return dict(search_identical=identical, recovered_s=round(slowest, 3), searches_meanwhile=n, wrong_meanwhile=wrong,
                actor_is_back=again != victim, latency=latency)


def _half(pipe, folder: Path, parts: list[int]) -> None:
    index = ShardedIndex(folder, parts=parts)
    while (f := pipe.recv()) is not None: pipe.send(part_answers(index, f, 10, "squared", False) if len(f) else f)


def two_processes(args, folder: Path) -> dict:
    "Latency of two plain processes, each with half of the parts; one alone and both take turns"
    parts, queries = large(folder, args.items, 8)
    wanted, pipes = ShardedIndex(parts).search(queries, k=10), []
    context = multiprocessing.get_context("spawn")
    for numbers in ([1, 3, 5, 7], [2, 4, 6, 8]):
        ours, theirs = context.Pipe()
        context.Process(target=_half, args=(theirs, parts, numbers), daemon=True).start()
        pipes.append(ours)

    def ask(i: int, whom: list, n: int = 1):
        for pipe in whom: pipe.send(queries[i:i + n])
        return [pipe.recv() for pipe in whom]
    identical, times = True, dict(one=[], two=[], empty_one=[], empty_two=[])
    for i in range(10): ask(i, pipes)  # until both are there
    for i in range(args.searches):
        start = time.perf_counter()
        ask(i % 512, [pipes[i % 2]])
        between = time.perf_counter()
        found = merged_answers(ask(i % 512, pipes), 10, 10)
        times["two"].append(round(time.perf_counter() - between, 6))
        times["one"].append(round(between - start, 6))
        for name, whom in (("empty_one", [pipes[i % 2]]), ("empty_two", pipes)):  # a question about nothing: what only going there takes
            start = time.perf_counter()
            ask(i % 512, whom, 0)
            times[name].append(round(time.perf_counter() - start, 6))
        identical &= torch.equal(found.ids[0], wanted.ids[i % 512]) and torch.equal(found.distances[0], wanted.distances[i % 512])
    for pipe in pipes: pipe.send(None)
    return dict(items=args.items, search_identical=identical, **{name: quantiles(own) for name, own in times.items()},
                **{f"{name}_s": own for name, own in times.items()}, cores=os.cpu_count(), load=round(os.getloadavg()[0], 1))


def without_ray(args, folder: Path) -> dict:
    "What needs no engine: workers that share the parts, kills while parts are saved, and a search by two processes"
    result = two_processes(args, folder)
    if args.json: Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    made_here(args, folder / "here")
    workers = [subprocess.Popen(command(args, folder / "workers", args.part_size, "--part", f"{i}/2"), stdout=subprocess.DEVNULL) for i in (1, 2)]
    ended = [worker.wait() for worker in workers]
    saves = killed_until_done(args, folder / "saves", 16, args.kills)
    a, b = ShardedIndex(folder / "saves"), ShardedIndex(folder / "here")
    return result | dict(two_workers_identical=not any(ended) and same(folder / "here", folder / "workers"), killed_saves=saves,
                         killed_saves_identical=torch.equal(a.ids, b.ids) and torch.equal(a.codes, b.codes) and a.paths == b.paths and not saves["rewritten"])


def prepare(args, folder: Path) -> None:
    args.photos, args.model = folder / "photos", folder / "model"
    args.photos.mkdir()
    photographs(args.photos, args.pictures, 256)
    torch.manual_seed(0)
    SSCQ(bits=64, backbone=args.backbone, image_size=args.size, seed=0).save_pretrained(args.model)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--part-size", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60., help="of work at least, for the overhead")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--items", type=int, default=2_000_000, help="codes that are searched")
    parser.add_argument("--backbone", default="resnet18_small")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--attempts", type=int, default=3, help="to start Ray")
    parser.add_argument("--kills", type=int, default=3, help="of a process that saves small parts")
    parser.add_argument("--without-ray", action="store_true", help="only what plain processes do")
    parser.add_argument("--searches", type=int, default=600, help="of two plain processes")
    parser.add_argument("--latency", action="store_true", help="only what a search of two actors takes; the rest of the file stays")
    parser.add_argument("--rounds", type=int, default=300, help="of these searches")
    parser.add_argument("--json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.without_ray:
        with tempfile.TemporaryDirectory() as folder:
            args.address = None
            prepare(args, Path(folder))
            result = without_ray(args, Path(folder)) | dict(
                pictures=args.pictures, cores=os.cpu_count(), load=round(os.getloadavg()[0], 1), machine=platform.machine(), torch=torch.__version__)
        print(json.dumps({key: value for key, value in result.items() if not key.endswith("_s")}, indent=1))
        if args.json: Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder, cluster(args.attempts) as (args.address, started):
        folder = Path(folder)
        if args.latency:
            found = searched(args, folder)
            print(json.dumps({key: value for key, value in found["latency"].items() if not key.endswith("_s")}, indent=1))
            before = json.loads(Path(args.json).read_text()) if args.json and Path(args.json).exists() else {}
            if args.json: Path(args.json).write_text(json.dumps(before | found, indent=1) + "\n")
            return
        prepare(args, folder)
        result = dict(identical=None, killed_actor_identical=None, killed_driver_identical=None, recovered_s=None, overhead=None, **started)

        def note(**more):
            result.update(more | dict(load=round(os.getloadavg()[0], 1)))
            print(json.dumps({key: value for key, value in more.items() if key != "latency"}), flush=True)
            if args.json: Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
        note(pictures=args.pictures, part_size=args.part_size, backbone=args.backbone, image_size=args.size, cores=os.cpu_count(),
             machine=platform.machine(), torch=torch.__version__, ray=version("ray"))
        note(**searched(args, folder))
        here, there = [], []
        for turn in range(args.turns):
            there.append(made_by_ray(args, folder / f"ray{turn}"))
            here.append(made_here(args, folder / f"here{turn}"))
        reference = folder / "here0"
        note(identical=all(same(reference, folder / f"ray{turn}") for turn in range(args.turns)), overhead=round(min(there) / min(here), 3),
             one_process_s=[round(t, 2) for t in here], two_actors_s=[round(t, 2) for t in there], enough_work=min(here) >= args.seconds)
        made_by_ray(args, folder / "killed", kill_after=min(there) / 3)
        note(killed_actor_identical=same(reference, folder / "killed"))
        driver = killed_until_done(args, folder / "driver", args.part_size, 1, "--cluster", args.address, "--actors", "2")
        note(killed_driver_identical=same(reference, folder / "driver") and not driver["rewritten"], killed_driver=driver)
        saves = killed_until_done(args, folder / "saves", 16, args.kills)
        a, b = ShardedIndex(folder / "saves"), ShardedIndex(reference)
        note(killed_saves_identical=torch.equal(a.ids, b.ids) and torch.equal(a.codes, b.codes) and a.paths == b.paths and not saves["rewritten"],
             killed_saves=saves)


if __name__ == "__main__": main()
