"""llama.cpp through its own C interface (the PyPI package llama-cpp-python): its quantiser, and the logits of windows.

Windows are those of `sluice eval`: read from nothing, the second half scored. Flash attention is off and the KV cache in
f32, so that what is compared is the weights' format and the arithmetic that comes with it.
"""
import ctypes

import gguf
import llama_cpp as L
import numpy as np

FORMATS = {"BF16": 32, "F16": 1, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q4_0": 2, "IQ4_XS": 30, "Q3_K_M": 12,
           "Q2_K": 10}
EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
OTHERS = ("attn_q.", "attn_k.", "attn_v.", "attn_output", "output.")  # neither norms nor router nor embedding

_silent = L.llama_log_callback(lambda level, text, user: None)
L.llama_log_set(_silent, ctypes.c_void_p(0))
L.llama_backend_init()


def quantise(source, target, name, threads, keep_embedding):
    """SOURCE -> TARGET. keep_embedding: the embedding stays in bf16, as sluice keeps it."""
    params = L.llama_model_quantize_default_params()
    params.ftype = FORMATS[name]
    params.nthread = threads
    if keep_embedding and name != "F16":
        params.token_embedding_type = int(gguf.GGMLQuantizationType.BF16)
    if L.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp could not quantise {source} to {name}")


def stored(path):
    """Bits a weight as the file stores them: (experts, all matrices but embedding and router, {type: tensors})."""
    bytes_of, weights_of, types = [0, 0], [0, 0], {}
    for tensor in gguf.GGUFReader(str(path)).tensors:
        name = tensor.name.removeprefix("blk.").lstrip("0123456789.")
        is_expert = name.startswith(EXPERTS)
        if not is_expert and not name.startswith(OTHERS):
            continue
        for i in [0, 1] if is_expert else [1]:
            bytes_of[i] += int(tensor.n_bytes)
            weights_of[i] += int(tensor.n_elements)
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    return 8 * bytes_of[0] / weights_of[0], 8 * bytes_of[1] / weights_of[1], types


class Model:
    """A GGUF file, loaded; logits(ids) of one window at a time."""

    def __init__(self, path, context, threads):
        params = L.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = L.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp could not load {path}")
        params = L.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = int(gguf.GGMLQuantizationType.F32)
        params.flash_attn_type = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = L.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp could not make a context of {context} tokens for {path}")
        self.vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.model))
        self.batch = L.llama_batch_init(context, 0, 1)

    def logits(self, ids, first):
        """Rows [first, len(ids) - 1) of the window: f32 [rows][vocab]."""
        L.llama_memory_clear(L.llama_get_memory(self.context), True)
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = int(token), i, 1, 0
            batch.logits[i] = first <= i < len(ids) - 1
        if L.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        rows = len(ids) - 1 - first
        return np.ctypeslib.as_array(L.llama_get_logits(self.context), shape=(rows, self.vocab)).copy()

    def close(self):
        L.llama_batch_free(self.batch)
        L.llama_free(self.context)
        L.llama_model_free(self.model)
