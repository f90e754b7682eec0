"""The figures of node/eval/divergence.h once more, in numpy: written apart from it, so that one checks the other."""
import numpy as np


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def compare(reference, logits, truth):
    """Rows of two models -> {name: value per row}."""
    p, q = log_softmax(reference), log_softmax(logits)
    at = np.arange(len(truth)), truth
    return {"nll": -q[at], "nll_reference": -p[at], "kld": np.maximum((np.exp(p) * (p - q)).sum(-1), 0),
            "gap": np.exp(q[at]) - np.exp(p[at]),
            "same_top": (reference.argmax(-1) == logits.argmax(-1)).astype(np.float64)}


def mean(values):
    """values: [windows][positions] -> the mean and its standard error between windows."""
    means = values.mean(1)
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None


def quantile(values, share):
    whole = values.ravel()
    value = np.quantile(whole, share)
    error = mean((values <= value).astype(np.float64))[1]
    if error is None:
        return float(value), None
    low, high = np.quantile(whole, np.clip([share - error, share + error], 0, 1))
    return float(value), float(high - low) / 2


def report(windows):
    """A list of compare() results, a window each -> figures named as in `sluice eval --json`."""
    of = {name: np.stack([w[name] for w in windows]) for name in windows[0]}
    nll, nll_error = mean(of["nll"])
    ratio, ratio_error = mean(of["nll"] - of["nll_reference"])
    square, square_error = mean(of["gap"] ** 2)
    rms = float(np.sqrt(square))

    def times(error, factor):
        return None if error is None else error * factor
    pairs = {
        "perplexity": (float(np.exp(nll)), times(nll_error, float(np.exp(nll)))),
        "perplexity_reference": (float(np.exp(mean(of["nll_reference"])[0])),
                                 times(mean(of["nll_reference"])[1], float(np.exp(mean(of["nll_reference"])[0])))),
        "perplexity_ratio": (float(np.exp(ratio)), times(ratio_error, float(np.exp(ratio)))),
        "kld_mean": mean(of["kld"]),
        "kld_median": quantile(of["kld"], 0.5),
        "kld_p99": quantile(of["kld"], 0.99),
        "same_top": mean(of["same_top"]),
        "true_token_probability_mean_change": mean(of["gap"]),
        "true_token_probability_rms_change": (rms, times(square_error, 1 / (2 * rms) if rms > 0 else 1)),
    }
    figures = {name: {"value": value, "error": error} for name, (value, error) in pairs.items()}
    figures["kld_max"] = float(of["kld"].max())
    return figures
