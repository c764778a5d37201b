"""The checked file to Kaggle through the official client: limits, upload, score, ledger.

Importing this needs neither credentials nor network, nor the client itself.
"""

from submit.check import Checked, check
from submit.client import Client, Failure, Patience
from submit.download import download
from submit.ledger import Attempt, attempts
from submit.send import Sender

__all__ = ["Attempt", "Checked", "Client", "Failure", "Patience", "Sender", "attempts", "check", "download"]
