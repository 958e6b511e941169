"""Eight threads add, remove, merge, search, explain, look and save; every answer and every file must agree with a state that the index was in.

    python tests/index_threads.py [SECONDS]

Changes are made under a lock, which notes the ids that the index then holds; readers and savers do not take it. Afterwards each answer is
compared, by looking at everything, with every state between the one before it was asked and the one after it was given."""
import os
import random
import sys
import tempfile
import threading
import time
import traceback

import torch

torch.set_num_threads(1)
from sscq import segments
from sscq.index import Index
from sscq.search import adc, distance_table

def run(seconds, seed=0, n_threads=8, large=256, few=64):
    segments.LARGEST, segments._FEW = large, few
    g = torch.Generator().manual_seed(seed)
    M, K = 4, 16
    books, f = torch.randn(M, K, 3, generator=g), torch.randn(4, M * 3, generator=g)
    pool = torch.randint(K, (500, M), generator=g, dtype=torch.uint8)[torch.randint(500, (4000,), generator=g)]
    def code_of(i): return pool[i % 4000]
    def agrees(held):
        ids = held.ids.tolist()
        return held.codes.tolist() == [code_of(i).tolist() for i in ids] and held.paths == [f"{i}.png" for i in ids]
    index, lock, states, problems = Index(books), threading.Lock(), [frozenset()], []
    index.add(pool[:300], ids=range(300), paths=[f"{i}.png" for i in range(300)])
    states.append(frozenset(range(300)))
    counter, folder, seen, done = [300], tempfile.mkdtemp(), [], time.time() + seconds
    table = distance_table(f, books)
    def writer(rng):
        while time.time() < done:
            with lock:  # decides the order of changes; readers and savers do not take it
                now, what = states[-1], rng.random()
                if what < .5 or len(now) < 100:
                    n = rng.choice([1, 3, 40])
                    ids = list(range(counter[0], counter[0] + n))
                    counter[0] += n
                    new = now | set(ids); states.append(new)
                    args = dict(f=torch.stack([code_of(i) for i in ids]), ids=ids, paths=[f"{i}.png" for i in ids])
                    if what < .1: index.merge(Index(books).add(**args))
                    else: index.add(**args)
                else:
                    gone = rng.sample(sorted(now), min(len(now) - 1, rng.choice([1, 5, 60])))
                    states.append(now - set(gone))
                    index.remove(gone)
                if rng.random() < .02: index.compact()
            time.sleep(rng.random() * .002)
    def between(call, *args):
        a = len(states) - 1
        r = call(*args)
        return a, len(states) - 1, r
    def reader(rng):
        while time.time() < done:
            q = rng.randrange(4)
            a, b, h = between(index.search, f[q], 5)
            seen.append(("search", max(0, a - 1), b, (q, h.ids[0].tolist(), h.distances[0].tolist(), h.paths[0])))
            if rng.random() < .3:
                i = rng.choice(sorted(states[-1]))
                try: a, b, e = between(index.explain, f[q], i)
                except ValueError: continue  # was taken out
                if e.id != i or e.item.tolist() != code_of(i).tolist() or e.path != f"{i}.png": problems.append(("explain", i, e))
            if rng.random() < .1:
                a, b, s = between(index.snapshot)
                if not agrees(s): problems.append("snapshot")
                seen.append(("ids", max(0, a - 1), b, s.ids.tolist()))
    def saver(rng, k):
        path = os.path.join(folder, f"{k % 2}.sscq"); n = 0
        while time.time() < done:
            try: a, b, _ = between(index.save, path)
            except (OSError, ValueError) as e: problems.append(("save", str(e))); continue
            n += 1
            own = os.path.join(folder, f"own{k}.sscq")
            a, b, _ = between(index.save, own)
            i = Index.load(own, verify=True)
            if not agrees(i): problems.append(("file", own))
            seen.append(("ids", max(0, a - 1), b, i.ids.tolist()))
        seen.append(("saves", 0, 0, n))
    def guarded(fn, *args):
        try: fn(*args)
        except Exception:
            problems.append(traceback.format_exc())
    roles = [writer, writer, writer, reader, reader, reader]
    ts = [threading.Thread(target=guarded, args=(r, random.Random(k + 100 * seed))) for k, r in enumerate(roles[:n_threads - 2])]
    ts += [threading.Thread(target=guarded, args=(saver, random.Random(50 + k), k)) for k in (0, 1)]
    old = sys.getswitchinterval(); sys.setswitchinterval(1e-4)
    for t in ts: t.start()
    for t in ts: t.join()
    sys.setswitchinterval(old)
    wrong = 0
    exact = {}
    for what, a, b, got in seen:
        if what == "saves": continue
        ok = False
        for v in range(a, min(b + 1, len(states))):
            s = states[v]
            if what == "ids": ok = got == sorted(s)
            else:
                q, ids, d, paths = got
                if paths != [f"{i}.png" for i in ids] or not set(ids) <= s: continue
                own = sorted(s)
                if (q, v) not in exact: exact[q, v] = adc(table[q:q + 1], torch.stack([code_of(i) for i in own]))[0].tolist()
                best = sorted(zip(exact[q, v], own))[:5]
                ok = [i for _, i in best] == ids and [x for x, _ in best] == d
            if ok: break
        if not ok: wrong += 1; problems.append((what, a, b, got)) if wrong < 4 else None
    return dict(states=len(states), seen=len(seen), wrong=wrong, problems=len(problems)), problems

if __name__ == "__main__":
    told, wrong = run(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
    print(told)
    for one in wrong[:5]: print(str(one)[:1500])
    sys.exit(bool(wrong))
