"""Kaldi's MFCCs by kaldi-native-fbank: 25 ms windows every 10 ms, without dither, as several competitions had them."""

from __future__ import annotations

import kaldi_native_fbank
import numpy as np

from folds.frontends.base import SAMPLE_RATE, register_front_end


def mfcc(samples: np.ndarray, coefficients: int, mel_bins: int) -> np.ndarray:
    """Kaldi MFCCs of 16 kHz samples: `(T, coefficients)` float32, the first from the cepstrum, not the energy."""
    options = kaldi_native_fbank.MfccOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    # Dither is random noise that avoids log 0; the same audio would have other features each time.
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = mel_bins
    options.num_ceps = coefficients
    options.use_energy = False
    extractor = kaldi_native_fbank.OnlineMfcc(options)
    extractor.accept_waveform(SAMPLE_RATE, samples)
    extractor.input_finished()
    frames = [extractor.get_frame(index) for index in range(extractor.num_frames_ready)]
    return np.stack(frames).astype(np.float32)


@register_front_end("kaldi-mfcc-13", features=13)
def kaldi_mfcc_13(samples: np.ndarray) -> np.ndarray:
    """13 MFCCs of 23 mel bins, Kaldi's defaults but for dither and energy."""
    return mfcc(samples, coefficients=13, mel_bins=23)


@register_front_end("demo", features=28, marker="demo.json")
def demo(samples: np.ndarray) -> np.ndarray:
    """28 MFCCs of 40 mel bins: the features of `folds.demo`."""
    return mfcc(samples, coefficients=28, mel_bins=40)
