"""Random sequences of faults: the server's record and the ledger always agree, and nothing is sent twice."""

from __future__ import annotations

import os
import random

from conftest import Harness

SEQUENCES = int(os.environ.get("SUBMIT_SEQUENCES", "60"))
OTHER_VERSION = 20

# Fraction of runs with a fault that ends the child process. It is small because the next child takes a second to start.
SLOW_FRACTION = 0.02
FAST = ("", "", "", "400", "403", "429", "429 0", "500", "503", "html", "reset")
LOST_ANSWERS = ("lost", "lost-html", "lost-500", "no-ref")


def faults(rng: random.Random, slow: bool) -> dict[str, list[str]]:
    """Faults of the first few requests to each endpoint."""
    drawn = {
        endpoint: rng.choices(FAST, k=rng.randrange(4))
        for endpoint in ("ListSubmissions", "GetSubmissionLimits", "StartSubmissionUpload", "GetSubmission")
    }
    drawn["upload"] = rng.choices(("", "", "403", "503", "reset"), k=rng.randrange(3))
    drawn["CreateSubmission"] = rng.choices(FAST + 2 * LOST_ANSWERS, k=rng.randrange(1, 4))
    if slow:
        endpoint = rng.choice(("ListSubmissions", "StartSubmissionUpload", "CreateSubmission"))
        fault = rng.choice(("hang", "kill", *(("lost-hang",) if endpoint == "CreateSubmission" else ())))
        drawn[endpoint].insert(rng.randrange(len(drawn[endpoint]) + 1), fault)
    return drawn


def test_server_and_ledger_agree_after_every_run_of_random_faults(harness: Harness) -> None:
    rng = random.Random(11785)
    kaggle, outcomes = harness.kaggle, {0: 0, 1: 0, 2: 0}

    def kill() -> str:
        assert harness.client._child is not None
        harness.client._child.process.kill()
        return rng.choice(("reset", "lost"))

    for sequence in range(SEQUENCES if harness.packages is None else OTHER_VERSION):
        kaggle.reset()
        harness.ledger.unlink(missing_ok=True)
        harness.write(f"index,label\n0,-@-\n1,-{'G' * (sequence + 1)}-\n")
        for _ in range(rng.randrange(1, 3)):
            drawn = faults(rng, slow=rng.random() < SLOW_FRACTION)
            for endpoint, queue in drawn.items():
                kaggle.faults[endpoint] = [kill if fault == "kill" else fault for fault in queue]
            outcome = harness.run(wait=rng.random() < 0.5, settle=0.06, pause=0.003, timeout=1.0, deadline=15.0)
            outcomes[outcome.status] += 1
            assert len(kaggle.submissions) <= 1, (sequence, drawn, outcome)
            assert outcome.seconds < 15.5
            harness.check_ledger()
        kaggle.faults.clear()
        last = harness.run(settle=0.06)
        # 2: an earlier run of the sequence submitted it and recorded that.
        assert last.status in (0, 2), (sequence, last)
        (submission,) = kaggle.submissions
        submitted = [attempt for attempt in harness.attempts if attempt.state == "submitted"]
        assert [attempt.ref for attempt in submitted] == [submission["ref"]]
        assert all(attempt.state != "open" for attempt in harness.attempts)
        assert kaggle.contents[submission["ref"]] == harness.file.read_bytes()
    assert min(outcomes.values()) >= 3  # success, failure and refusal all occur
