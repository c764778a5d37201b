"""Check files and submit them to Kaggle through the official client, with limits, scores and a ledger.

Importing this package needs neither credentials nor a network, and does not import the official client.
"""

from submit.check import CheckedFile, check_file
from submit.client import Client, Failure, TimeBudget
from submit.download import download_data
from submit.ledger import Attempt, read_attempts
from submit.send import Sender

__all__ = [
    "Attempt",
    "CheckedFile",
    "Client",
    "Failure",
    "Sender",
    "TimeBudget",
    "check_file",
    "download_data",
    "read_attempts",
]
