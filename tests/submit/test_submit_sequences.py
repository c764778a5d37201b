"""Random sequences of faults: whatever happens, the server's record and the ledger agree and nothing is sent twice."""

from __future__ import annotations

import random

from conftest import Desk

SEQUENCES = 200
OTHER_VERSION = 20

# A fault that ends the child costs the second its successor needs to start: such faults are rare in the sequences.
DEAR = 0.02
CHEAP = ("", "", "", "400", "403", "429", "429 0", "500", "503", "html", "reset")
LOST = ("lost", "lost-html", "lost-500", "no-ref")


def faults(rng: random.Random, dear: bool) -> dict[str, list[str]]:
    """A few requests' faults for each endpoint."""
    drawn = {
        endpoint: rng.choices(CHEAP, k=rng.randrange(4))
        for endpoint in ("ListSubmissions", "GetSubmissionLimits", "StartSubmissionUpload", "GetSubmission")
    }
    drawn["upload"] = rng.choices(("", "", "403", "503", "reset"), k=rng.randrange(3))
    drawn["CreateSubmission"] = rng.choices(CHEAP + 2 * LOST, k=rng.randrange(1, 4))
    if dear:
        endpoint = rng.choice(("ListSubmissions", "StartSubmissionUpload", "CreateSubmission"))
        fault = rng.choice(("hang", "kill", *(("lost-hang",) if endpoint == "CreateSubmission" else ())))
        drawn[endpoint].insert(rng.randrange(len(drawn[endpoint]) + 1), fault)
    return drawn


def test_server_and_ledger_agree_after_every_run_of_random_faults(desk: Desk) -> None:
    rng = random.Random(11785)
    kaggle, outcomes = desk.kaggle, {0: 0, 1: 0, 2: 0}

    def kill() -> str:
        desk.client._child.kill()
        return rng.choice(("reset", "lost"))

    for sequence in range(SEQUENCES if desk.packages is None else OTHER_VERSION):
        kaggle.reset()
        desk.ledger.unlink(missing_ok=True)
        desk.write(f"index,label\n0,-@-\n1,-{'G' * (sequence + 1)}-\n")
        for _ in range(rng.randrange(1, 3)):
            drawn = faults(rng, dear=rng.random() < DEAR)
            for endpoint, queue in drawn.items():
                kaggle.faults[endpoint] = [kill if each == "kill" else each for each in queue]
            outcome = desk.run(wait=rng.random() < 0.5, settle=0.06, pause=0.003, timeout=1.0, deadline=15.0)
            outcomes[outcome.status] += 1
            assert len(kaggle.submissions) <= 1, (sequence, drawn, outcome)
            assert outcome.seconds < 15.5
            desk.expect_agreement()
        kaggle.faults.clear()
        last = desk.run(settle=0.06)
        # 2: an earlier run of the sequence submitted it, and knew.
        assert last.status in (0, 2), (sequence, last)
        (submission,) = kaggle.submissions
        submitted = [attempt for attempt in desk.attempts if attempt.state == "submitted"]
        assert [attempt.ref for attempt in submitted] == [submission["ref"]]
        assert all(attempt.state != "open" for attempt in desk.attempts)
        assert kaggle.contents[submission["ref"]] == desk.file.read_bytes()
    assert min(outcomes.values()) >= 3  # the sequences do reach success, failure and refusal
