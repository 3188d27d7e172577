"""A Python process whose module has loaded a llama.cpp: llama-align finds it and trains the open model, through ctypes.

    python3 host.py libllama_align.so model.gguf adapter.gguf

The host is xllamacpp. It has no Python object for a model: the functions that its module exports are called as from C, with their
own defaults.
"""

import ctypes as c
import os
import pathlib
import re
import sys


class Error(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("status", c.c_int32), ("message", c.c_char * 1016)]


def struct(name):
    """A struct as the header declares it."""
    header = (pathlib.Path(__file__).parents[2] / "include" / "llama-align.h").read_text()
    body = re.search(rf"typedef struct {name} {{(.*?)}} {name};", header, re.S).group(1)
    kinds = {"uint32_t": c.c_uint32, "uint64_t": c.c_uint64, "float": c.c_float, "double": c.c_double, "char": c.c_char}
    fields = []
    for kind, field, n in re.findall(r"^\s+(\w+) (\w+)(?:\[(\d+)\])?;", body, re.M):
        fields.append((field, kinds[kind] * int(n) if n else kinds[kind]))
    return type(name, (c.Structure,), {"_fields_": fields})


Placement = struct("llama_align_placement")
CheckReport = struct("llama_align_check_report")
CheckParams = struct("llama_align_check_params")
DatasetParams = struct("llama_align_dataset_params")
TrainerParams = struct("llama_align_trainer_params")
Progress = struct("llama_align_progress")

SFT, DPO, PLAIN = 1, 2, 1
PROMPTS = [b"The sky is", b"Grass is", b"Snow is"]
WANTED = [b" full of whales today."] * 3
UNWANTED = [b" blue.", b" green.", b" white."]


class Align:
    """The functions of llama-align.h; a status below 0 is an exception."""

    def __init__(self, path):
        self.library = c.CDLL(path)

    def __call__(self, name, *arguments):
        err = Error(struct_size=c.sizeof(Error))
        words = [c.c_void_p(a) if isinstance(a, int) else a for a in arguments]
        status = getattr(self.library, "llama_align_" + name)(*words, c.byref(err))
        if status < 0:
            sys.exit(f"llama_align_{name}: {err.message.decode()}")

    def make(self, name, *arguments):
        out = c.c_void_p()
        self(name, *arguments, c.byref(out))
        return out

    def params(self, name, kind):
        out = kind()
        self(name + "_params_init", c.byref(out), c.c_uint32(c.sizeof(kind)))
        return out

    def free(self, name, handle):
        getattr(self.library, f"llama_align_{name}_free")(handle)


def column(texts):
    return (c.c_char_p * len(texts))(*texts)


def sized(kind):
    return kind(struct_size=c.sizeof(kind))


def resident(when):
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    own, files = (int(fields[n].split()[0]) // 1024 for n in ("RssAnon", "RssFile"))
    print(f"{when}: {own} MiB of its own, {files} MiB of files")


def check(align, what, model):
    params, report = align.params("check", CheckParams), sized(CheckReport)
    params.n_threads = 1
    align("model_check", model, c.byref(params), c.byref(report))
    print(f"{what}: check passes, logits differ by {report.max_abs_diff:g}, blocks by {report.max_rel_diff:.2g} of {report.bound:.2g} allowed")


def train(align, model, method, steps, adapter):
    rows = align.params("dataset", DatasetParams)
    rows.method, rows.flags = method, PLAIN
    columns = [column(PROMPTS), column(WANTED)] + ([column(UNWANTED)] if method == DPO else [])
    kind = "dataset_from_pairs" if method == DPO else "dataset_from_completions"
    data = align.make(kind, model, *columns, c.c_size_t(len(PROMPTS)), c.byref(rows))
    params = align.params("trainer", TrainerParams)
    params.method, params.learning_rate, params.batch_size, params.grad_accum, params.max_steps = method, 2e-3, 3, 1, steps
    params.n_threads = 1  # ggml's threads spin while they wait for each other: on a busy machine one is faster
    trainer = align.make("trainer_new", adapter, data, c.byref(params))
    align("trainer_run", trainer, None, None)
    progress = sized(Progress)
    align("trainer_report", trainer, c.byref(progress))
    print(f"{'dpo' if method == DPO else 'sft'}: step {progress.step}, loss {progress.loss:.3f}")
    align.free("trainer", trainer)
    align.free("dataset", data)


class XLlamaCpp:
    """xllamacpp: the llama.cpp inside its module, called as from C without its headers."""

    class Params(c.Structure):
        _fields_ = [("words", c.c_uint64 * 64)]

    class Batch(c.Structure):
        _fields_ = [("n_tokens", c.c_int32)]
        _fields_ += [(n, c.c_void_p) for n in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")]

    def __init__(self, path):
        import xllamacpp
        from xllamacpp import xllamacpp as module

        self.name = f"xllamacpp {xllamacpp.__version__}"
        self.lib = c.CDLL(module.__file__, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        pointer, params = c.c_void_p, self.Params
        for name, result, arguments in [
            ("llama_model_default_params", params, []),
            ("llama_context_default_params", params, []),
            ("llama_model_load_from_file", pointer, [c.c_char_p, params]),
            ("llama_init_from_model", pointer, [pointer, params]),
            ("llama_model_get_vocab", pointer, [pointer]),
            ("llama_vocab_n_tokens", c.c_int32, [pointer]),
            ("llama_tokenize", c.c_int32, [pointer, c.c_char_p, c.c_int32, pointer, c.c_int32, c.c_bool, c.c_bool]),
            ("llama_token_to_piece", c.c_int32, [pointer, c.c_int32, c.c_char_p, c.c_int32, c.c_int32, c.c_bool]),
            ("llama_batch_get_one", self.Batch, [pointer, c.c_int32]),
            ("llama_decode", c.c_int32, [pointer, self.Batch]),
            ("llama_get_logits_ith", c.POINTER(c.c_float), [pointer, c.c_int32]),
            ("llama_get_memory", pointer, [pointer]),
            ("llama_memory_clear", None, [pointer, c.c_bool]),
            ("llama_adapter_lora_init", pointer, [pointer, c.c_char_p]),
            ("llama_set_adapters_lora", c.c_int32, [pointer, pointer, c.c_size_t, pointer]),
            ("llama_set_n_threads", None, [pointer, c.c_int32, c.c_int32]),
            ("llama_log_set", None, [pointer, pointer]),
        ]:
            function = getattr(self.lib, name)
            function.restype, function.argtypes = result, arguments
        kind = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
        self.quiet = kind(lambda level, text, user: None)
        self.lib.llama_log_set(c.cast(self.quiet, pointer), None)
        self.model = self.lib.llama_model_load_from_file(path.encode(), self.lib.llama_model_default_params())
        self.context = self.lib.llama_init_from_model(self.model, self.lib.llama_context_default_params())
        self.lib.llama_set_n_threads(self.context, 1, 1)
        self.vocab = self.lib.llama_model_get_vocab(self.model)

    def answer(self, prompt):
        tokens, text = (c.c_int32 * 64)(), prompt.encode()
        n = self.lib.llama_tokenize(self.vocab, text, len(text), tokens, 64, True, True)
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        n_vocab, out = self.lib.llama_vocab_n_tokens(self.vocab), b""
        for _ in range(12):
            if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, n)) != 0:
                sys.exit("llama_decode failed")
            logits = self.lib.llama_get_logits_ith(self.context, -1)[:n_vocab]
            best = max(range(n_vocab), key=logits.__getitem__)
            piece = c.create_string_buffer(64)
            n_bytes = self.lib.llama_token_to_piece(self.vocab, best, piece, 64, 0, False)
            out += piece.raw[: max(n_bytes, 0)]
            tokens[0], n = best, 1
        return out.decode(errors="replace")

    def adapt(self, adapter):
        lora = c.c_void_p(self.lib.llama_adapter_lora_init(self.model, adapter.encode()))
        scale = c.c_float(1.0)
        if not lora or self.lib.llama_set_adapters_lora(self.context, c.byref(lora), 1, c.byref(scale)) != 0:
            sys.exit(f"{adapter}: the host refuses the adapter")


def main():
    library, path, adapter_path = sys.argv[1:]
    host = XLlamaCpp(path)
    print(f"host: {host.name}")
    before = host.answer("The sky is")
    print("before:", before.replace("\n", " "))
    resident("loaded")

    align = Align(library)
    runtime = align.make("runtime_from_process")
    plain = align.make("model_open_with", runtime, path.encode())
    check(align, "plain", plain)
    align.free("model", plain)
    model = align.make("model_attach", runtime, host.model, path.encode())
    placement = sized(Placement)
    align("model_placement", model, c.byref(placement))
    print("attached: {} tensors shared ({:.1f} MiB), {} from the file ({:.1f} MiB), {} refused ({:.1f} MiB)".format(
        placement.n_shared, placement.shared_bytes / 2**20, placement.n_mapped, placement.mapped_bytes / 2**20,
        placement.n_refused, placement.refused_bytes / 2**20))
    check(align, "attached", model)
    adapter = align.make("adapter_new", model, None, None)
    train(align, model, SFT, 12, adapter)
    train(align, model, DPO, 1, adapter)
    resident("trained")
    align("adapter_save", adapter, adapter_path.encode())
    for name, handle in [("adapter", adapter), ("model", model), ("runtime", runtime)]:
        align.free(name, handle)

    host.adapt(adapter_path)
    after = host.answer("The sky is")
    print("after:", after.replace("\n", " "))
    # "Full of whales", of which some models only say a part after so few steps.
    if "full" not in after or "full" in before:
        sys.exit("the adapter changes nothing")


main()
