"""The server under a load that it cannot keep up with: answers that are wrong or lost, refusals, latency, memory.

    npm install autocannon && python benchmarks/serve_load.py --autocannon node_modules/.bin/autocannon --json benchmarks/results/serve_load.json

`sscq serve` runs as a process of its own. autocannon asks the same question over many connections, without pause, and compares every
answer with the expected text; beside it a Python client asks different questions and compares each answer with the index. The server's
memory is read twice a second. `wrong` and `lost` have to be nought; a request that is refused because the queue is full is neither."""
import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

import torch

from sscq.core import SSCQ
from sscq.index import Index


def memory(pid: int) -> float:  # MiB
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def ask(port: int, body: bytes) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/search", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer: return answer.read()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autocannon", required=True)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = SSCQ(bits=64, backbone="tiny_cnn", image_size=16, seed=0)
        model.save_pretrained(folder)
        books, gen = model.codebooks.detach().float(), torch.Generator().manual_seed(0)
        codes = torch.randint(0, 16, (args.items, len(books)), dtype=torch.uint8, generator=gen)
        index = Index(books).add(codes)
        index.save(folder / "codes.sscq")
        queries = torch.randn(256, books[:, 0].numel(), generator=gen)
        found = index.search(queries, k=10)
        bodies = [json.dumps(dict(vectors=[q.tolist()], k=10)).encode() for q in queries]
        wanted = [dict(answers=[dict(ids=i.tolist(), distances=d.tolist())]) for i, d in zip(found.ids, found.distances)]
        command = [sys.executable, "-m", "sscq", "serve", str(folder / "codes.sscq"), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            port = int(re.search(r":(\d+);", process.stdout.readline())[1])
            expected = ask(port, bodies[0]).decode()
            done, counts, held = threading.Event(), dict(asked=0, wrong=0, lost=0), [memory(process.pid)]

            def check():
                while not done.is_set():
                    i = counts["asked"] % 255 + 1
                    try: counts["wrong"] += json.loads(ask(port, bodies[i])) != wanted[i]
                    except OSError: counts["lost"] += 1
                    counts["asked"] += 1

            def watch():
                while not done.wait(.5): held.append(memory(process.pid))
            threads = [threading.Thread(target=check), threading.Thread(target=watch)]
            for thread in threads: thread.start()
            cannon = subprocess.run([args.autocannon, "-c", str(args.connections), "-d", str(args.seconds), "-m", "POST", "-H", "content-type=application/json",
                                     "-b", bodies[0].decode(), "-E", expected, "-t", "60", "--json", f"http://127.0.0.1:{port}/search"],
                                    capture_output=True, text=True, check=True)
            done.set()
            for thread in threads: thread.join()
            said = json.loads(cannon.stdout)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer: metrics = answer.read().decode()
        finally:
            process.send_signal(2)
            process.wait(60)
    third = len(held) // 3
    result = dict(
        wrong=said.get("mismatches", 0) + counts["wrong"] + (json.loads(expected) != wanted[0]), lost=said["errors"] + said["timeouts"] + counts["lost"],
        refused=said["non2xx"], answered=said["2xx"], checked_one_by_one=counts["asked"], requests_per_s=round(said["requests"]["average"], 1),
        p50_ms=said["latency"]["p50"], p99_ms=said["latency"]["p99"], mib_first_third=round(max(held[:third]), 1), mib_last_third=round(max(held[-third:]), 1),
        queries_per_batch=round((said["2xx"] + counts["asked"]) / float(re.search(r"sscq_batches_total (\d+)", metrics)[1]), 2),
        items=args.items, connections=args.connections, seconds=args.seconds, cores=os.cpu_count(), load=round(os.getloadavg()[0], 1),
        machine=platform.machine(), torch=torch.__version__)
    print(json.dumps(result, indent=1))
    if args.json: Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__": main()
