"""Kaldi's MFCCs from kaldi-native-fbank: 25 ms windows every 10 ms, without dither, as used by several competitions.

Kaldi reads 16-bit samples as integers. The energies of its mel bins have a floor, so samples between -1 and 1, from
which `hw3p2-mini` and the demo were made, give different features where a recording is quiet.
"""

from __future__ import annotations

import kaldi_native_fbank
import numpy as np

from folds.frontends.base import SAMPLE_RATE, register_front_end

INT16 = 32_768.0
"""Full scale of 16-bit samples, which is 1 elsewhere."""


def mfcc(samples: np.ndarray, coefficients: int, mel_bins: int, scale: float = INT16) -> np.ndarray:
    """Kaldi MFCCs of 16 kHz samples: `(T, coefficients)` float32, the first being C0, not the energy.

    Samples are between -1 and 1, and multiplied by `scale`, by default to the range that Kaldi reads.
    """
    options = kaldi_native_fbank.MfccOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    # Dither is random noise that avoids log 0; with it, the same audio would have different features each time.
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = mel_bins
    options.num_ceps = coefficients
    options.use_energy = False
    extractor = kaldi_native_fbank.OnlineMfcc(options)
    extractor.accept_waveform(SAMPLE_RATE, samples * np.float32(scale))
    extractor.input_finished()
    frames = [extractor.get_frame(index) for index in range(extractor.num_frames_ready)]
    return np.stack(frames).astype(np.float32)


@register_front_end("kaldi-mfcc-13", features=13)
def kaldi_mfcc_13(samples: np.ndarray) -> np.ndarray:
    """13 MFCCs from 23 mel bins, Kaldi's defaults except for dither and energy."""
    return mfcc(samples, coefficients=13, mel_bins=23)


@register_front_end("demo", features=28, marker="demo.json")
def demo(samples: np.ndarray) -> np.ndarray:
    """28 MFCCs from 40 mel bins, of samples between -1 and 1: the features of `folds.demo`."""
    return mfcc(samples, coefficients=28, mel_bins=40, scale=1.0)
