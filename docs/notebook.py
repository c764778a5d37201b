# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Utterance to phonemes: from MFCC files to a submission
#
# As it stands, this notebook generates a small competition of synthetic speech and takes a few minutes on two CPU cores. For
# the real one, change the second cell. Runs are in `RUNS`; to continue a session that was stopped, run all cells again.
#
# **1. Install.** On Kaggle (with Internet on) and Colab, this installs the project from the address of your copy. PyTorch is
# already there, so only the rest is downloaded. If the project is already installed, nothing happens.

# %%
import importlib.util
import subprocess
import sys

REPOSITORY = ""  # such as https://github.com/OWNER/hw3p2-ensemble, where OWNER has a copy of the project
if importlib.util.find_spec("folds") is None:
    if not REPOSITORY:
        raise SystemExit("set REPOSITORY to the address of your copy of the project")
    subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, "hw3p2"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", "hw3p2"], check=True)
    sys.path.insert(0, "hw3p2")  # this session was started before the installation

# %% [markdown]
# **2. Settings.** For the real competition on a GPU: `DATA` is the folder under `/kaggle/input` with the competition's files,
# `MODELS = "pblstm,lstm,cnn_lstm"`, `FOLDS = 5` and `OPTIONS = "--minutes 180"`, the time for each of the three runs; the values
# below are for the demo on two CPU cores.

# %% tags=["parameters"]
DATA = ""  # empty: the demo competition
DEMO = "--speakers 8 --utterances 20"
RUNS = "runs"
MODELS = "pblstm_small,lstm_small"
FOLDS = 2
OPTIONS = "--epochs 8 --batch-frames 3000"

# %% [markdown]
# **3. The data.** Each utterance is a matrix of features, one row per 10 ms, with its phonemes.

# %%
if not DATA:
    DATA = "demo/competition"
    # !python -m folds.demo --out {DATA} {DEMO}

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from folds import load_dataset

dataset = load_dataset(Path(DATA))
print(dataset.format, "with", len(dataset.train), "training,", len(dataset.dev), "dev and", len(dataset.test), "test utterances")
phonemes = [dataset.alphabet.phonemes[label] for label in dataset.dev.labels(0)]
print(" ".join(phonemes))
plt.figure(figsize=(12, 2.5))
plt.imshow(dataset.dev.features(0).T, aspect="auto", origin="lower")
plt.xlabel("frame of 10 ms")
plt.ylabel("feature")
plt.show()

# %% [markdown]
# **4. Train** each model on all folds but the first, which is held out. The first line of each run says what it runs on, and which distance empty predictions would have.

# %%
# !python -m folds.train --data {DATA} --runs {RUNS} --model {MODELS} --folds {FOLDS} --fold 0 --resume {OPTIONS}

# %%
for path in sorted(Path(RUNS).glob("*/fold*/metrics.jsonl")):
    metrics = pd.read_json(path, lines=True)
    plt.plot(metrics.epoch, metrics.held_out, label=path.parent.parent.name)
plt.ylim(bottom=0)
plt.xlabel("epoch")
plt.ylabel("held-out distance")
plt.legend()
plt.show()

# %% [markdown]
# **5. A look at one network.** In its posteriors, nearly all frames are blank, and each phoneme is a spike.

# %%
import models
from folds import find_fold_models

folder = find_fold_models(Path(RUNS))[0].path
trained = models.load(folder)
log_probs = trained.predict(dataset.dev.features(0))
print("reference:", " ".join(phonemes))
print("greedy:   ", " ".join(trained.decode(log_probs)))
plt.figure(figsize=(12, 2.5))
plt.imshow(log_probs.T, aspect="auto", vmin=-8)
plt.xlabel("output frame")
plt.ylabel("class")
plt.show()

# %% [markdown]
# **6. Blend** the networks and their delayed twins, which are the same networks on features delayed by a few frames, with weights fitted on out-of-fold predictions, and measure the blend on dev. Without `--method` and what
# follows it, all methods are compared, which takes 4 to 16 times as long.

# %%
# !python -m folds.delay --data {DATA} {RUNS}/*/fold0
# !python -m ensemble.blend --data {DATA} --runs {RUNS} --out submission.csv --method mbr --nbest 100 --pool 100

# %%
submission = pd.read_csv("submission.csv")
print(len(submission), "rows")
submission.head()

# %% [markdown]
# **7. Submit.** On Kaggle, from the Output tab of the saved notebook. Elsewhere, with your token in `KAGGLE_API_TOKEN`:
# `!python -m submit --competition SLUG --file submission.csv --message "from a notebook" --wait`
