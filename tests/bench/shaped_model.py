"""Writes a model in the shape of a Llama with random weights, for measuring: shaped_model.py OUT.gguf TYPE BLOCKS SEED [7b|1.1b].

TYPE is f16, q8_0 or q4_k; 32 blocks of a 7B Llama in q4_k are about 3.9 GB, TinyLlama's 22 of the 1.1B one 0.6 GB. The bytes are
valid: scales are small numbers, codes are any.
"""

import random
import struct
import sys

SHAPES = {"7b": (4096, 11008, 4096), "1.1b": (2048, 5632, 256)}
WIDTH, FF, KV_WIDTH = SHAPES[sys.argv[5] if len(sys.argv) > 5 else "7b"]
VOCABULARY, ROWS, HEADS = 32000, 256, 32
TYPES = {"f32": (0, 1, 4), "f16": (1, 1, 2), "q8_0": (8, 32, 34), "q4_k": (12, 256, 144)}


def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value


def key(name, kind, value):
    kinds = {"u32": (4, "<I"), "f32": (6, "<f")}
    if kind == "text":
        return text(name) + struct.pack("<I", 8) + text(value)
    if kind == "texts":
        return text(name) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    number, form = kinds[kind]
    return text(name) + struct.pack("<I", number) + struct.pack(form, value)


def tensors(n_blocks, ty):
    yield "token_embd.weight", ty, [WIDTH, VOCABULARY]
    for i in range(n_blocks):
        yield f"blk.{i}.attn_norm.weight", "f32", [WIDTH]
        for name, n_in, n_out in [
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH, KV_WIDTH),
            ("attn_v", WIDTH, KV_WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", WIDTH, FF),
            ("ffn_up", WIDTH, FF),
            ("ffn_down", FF, WIDTH),
        ]:
            yield f"blk.{i}.{name}.weight", ty, [n_in, n_out]
        yield f"blk.{i}.ffn_norm.weight", "f32", [WIDTH]
    yield "output_norm.weight", "f32", [WIDTH]
    yield "output.weight", ty, [WIDTH, VOCABULARY]


def n_bytes(ty, shape):
    _, block, size = TYPES[ty]
    count = 1
    for n in shape:
        count *= n
    return count // block * size


def values(ty, n, draw):
    """Blocks of any codes; every scale is a small F16 (exponents 2^-8 to 2^-7)."""
    data = bytearray(draw.randbytes(n))
    if ty == "f32":
        return struct.pack("<f", 1.0) * (n // 4)
    step = TYPES[ty][2]
    for at in {"f16": [0], "q8_0": [0], "q4_k": [0, 2]}[ty]:
        high = data[at + 1 :: step]
        data[at + 1 :: step] = bytes(high).translate(bytes(0x1C + (b & 3) | (b & 0x80 if ty == "f16" else 0) for b in range(256)))
    return data


def main():
    path, ty, n_blocks, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    tokens = [f"<0x{i:02X}>" for i in range(256)] + [f"t{i}" for i in range(256, VOCABULARY)]
    keys = [
        key("general.architecture", "text", "llama"),
        key("general.name", "text", f"shaped {seed}"),
        key("llama.block_count", "u32", n_blocks),
        key("llama.context_length", "u32", 4096),
        key("llama.embedding_length", "u32", WIDTH),
        key("llama.feed_forward_length", "u32", FF),
        key("llama.attention.head_count", "u32", HEADS),
        key("llama.attention.head_count_kv", "u32", HEADS * KV_WIDTH // WIDTH),
        key("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5),
        key("llama.rope.dimension_count", "u32", WIDTH // HEADS),
        key("tokenizer.ggml.model", "text", "llama"),
        key("tokenizer.ggml.tokens", "texts", tokens),
    ]
    directory, offset = [], 0
    for name, kind, shape in tensors(n_blocks, ty):
        ne = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        directory.append(text(name) + ne + struct.pack("<IQ", TYPES[kind][0], offset))
        offset += -(-n_bytes(kind, shape) // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(directory), len(keys)) + b"".join(keys) + b"".join(directory)
    draw = random.Random(seed)
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for _, kind, shape in tensors(n_blocks, ty):
            left = n_bytes(kind, shape)
            piece = ROWS * n_bytes(kind, shape[:1])
            while left > 0:
                n = min(piece, left)
                file.write(values(kind, n, draw))
                left -= n
            file.write(bytes(-n_bytes(kind, shape) % 32))


main()
